"""The classifier of a finished run, and how sure it may be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from torch import Tensor, nn

from kinfolk.data import Source
from kinfolk.evals import extract, fit_temperature
from kinfolk.methods import ClassesConfig, PredictingMethod
from kinfolk.train.config import TrainConfig
from kinfolk.train.runs import load_method

if TYPE_CHECKING:
    from jaxtyping import Float


class _Logits(nn.Module):
    """From images to the logits of a method, divided by what calibrates them."""

    def __init__(self, method: PredictingMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.method.logits(images).float() / self.method.calibration


def load_classifier(run: str | os.PathLike[str], config: TrainConfig) -> nn.Module | None:
    """Load what a run's method learnt to tell classes apart, from images to logits, in eval mode.

    Args:
        run: a finished run.
        config: what is asked of it; without the protocol `own_classifier` or `open_world` nothing is loaded.

    Returns:
        The module, or None where nobody asks for it or the method learns no classifier.
    """
    asked = not {"own_classifier", "open_world"}.isdisjoint(config.evaluation.protocols)
    if not asked or not isinstance(config.method, ClassesConfig):
        return None
    method = load_method(run)
    return _Logits(method).eval() if isinstance(method, PredictingMethod) else None


def calibrate(method: PredictingMethod, source: Source, *, batch_size: int = 256) -> float:
    """Fit the temperature that makes a classifier as sure as it is right, and set `method.calibration` to it.

    Args:
        method: a trained one; which classes it names does not change, only how sure it is.
        source: labelled samples that training did not see: on those it saw, a classifier is surer than it should be.
        batch_size: images per forward pass.

    Returns:
        The temperature; above 1 the classifier was too sure.

    Raises:
        ValueError: for a source without labels.

    Reference: Guo, Pleiss, Sun, Weinberger (2017), On Calibration of Modern Neural Networks.

    Example:
        >>> import torch
        >>> from kinfolk.data import DigitsConfig
        >>> from kinfolk.methods import FineTuneConfig
        >>> from kinfolk.nn import SmallConvConfig
        >>> _ = torch.manual_seed(0)
        >>> method = FineTuneConfig(classes=10).build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> _ = torch.nn.init.normal_(method.classifier[1].weight)  # a guess, and sure of it
        >>> calibrate(method.eval(), DigitsConfig().load().test) == method.calibration.item() > 1
        True
    """
    before = method.calibration.clone()
    method.calibration.fill_(1.0)
    try:
        found = extract(_Logits(method), source, batch_size=batch_size)
        if found.labels is None:
            raise ValueError(f"calibration needs labelled samples; source {source.name!r} has no labels.")
        found = found.labelled()
        assert found.labels is not None
        labels = found.labels.where(found.labels < found.rows.shape[1], -1)
        temperature = fit_temperature(found.rows, labels)
    except BaseException:
        method.calibration.copy_(before)
        raise
    method.calibration.fill_(temperature)
    return float(method.calibration)
