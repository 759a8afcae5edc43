"""FairKL: similarities that follow the class and not the bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.graphs import checked_labels
from kinfolk.losses.base import Impl, PooledLoss, Reduction, checked_ids, one_per_row
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import PairMask, ready, row_sum

if TYPE_CHECKING:
    from jaxtyping import Float, Int

FairKLForm = Literal["kl", "moments"]
"""Distance between two groups of similarities: of normals with their moments, or of the moments themselves."""

_VARIANCE_FLOOR = 1e-6


def fair_kl(
    features: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    bias_labels: Int[Tensor, " m"],
    *,
    form: FairKLForm = "kl",
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> Float[Tensor, ""]:
    """Distance between the similarities of pairs that share the bias (a) and of those that do not (c).

    Pairs of different rows have the same label (+) or different ones (-). With ``mu`` and ``var`` the mean and the
    biased variance of the products in each of the four groups,
    ``kl: sum_{+,-} [(var_a + (mu_a - mu_c)^2) / var_c - log(var_a / var_c) - 1] / 2``, 1e-6 being added to variances;
    ``moments: sum_{+,-} (mu_a - mu_c)^2 + (sd_a - sd_c)^2``. A sign with fewer than 2 pairs in either group adds 0.
    Rows of label or bias -1 are in no pair.

    Returns:
        The value over the rows of all ranks, the same on each.

    Example:
        >>> labels, bias = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1])
        >>> fair_kl(torch.eye(4), labels, bias)
        tensor(0.)
    """
    refuse_ring("FairKLLoss", gather)
    classes, biases = checked_labels(labels), checked_labels(bias_labels, name="bias_labels")
    one_per_row(classes, features)
    one_per_row(biases, features, "bias_labels")
    ranks, (rows,) = Ranks.of([features], gather=gather, what=f"FairKLLoss: {form}")
    with torch.autocast(rows.device.type, enabled=False):
        rows, normalize = ready(rows, normalize=normalize, impl=impl)
        options: dict[str, Any] = {"scale": 1.0, "normalize": normalize, "impl": impl}
        groups = _groups(classes.to(rows.device), biases.to(rows.device), ranks)
        count, mean, variance = _moments(rows, groups, ranks, options)
        enough = (count >= 4).view(2, 2).all(1)  # every pair is met from both sides
        mean, variance = mean.view(2, 2), variance.view(2, 2)
        distance = _kl(mean, variance) if form == "kl" else _moment_distance(mean, variance)
        value = distance.where(enough, torch.zeros_like(distance)).sum()
        return value if rows.dtype == torch.float64 else value.float()


def _groups(labels: Int[Tensor, " m"], bias: Int[Tensor, " m"], ranks: Ranks) -> list[PairMask]:
    """Pairs of same label and same bias, same label and different bias, different and same, different and different."""
    known = (labels >= 0) & (bias >= 0)
    here = [values.where(known, -1) for values in (labels, bias, torch.zeros_like(labels))]
    (labels, all_labels), (bias, all_bias), (known_row, all_known) = ((v, ranks.gather(v)) for v in here)
    others = PairMask.exclude_self(len(labels), ranks.total, offset=ranks.offset) & PairMask.only(known_row, all_known)
    same_label, other_label = PairMask.only(labels, all_labels), PairMask.exclude(labels, all_labels)
    same_bias, other_bias = PairMask.only(bias, all_bias), PairMask.exclude(bias, all_bias)
    return [label & of_bias & others for label in (same_label, other_label) for of_bias in (same_bias, other_bias)]


def _moments(
    rows: Float[Tensor, "m d"], groups: list[PairMask], ranks: Ranks, options: dict[str, Any]
) -> tuple[Float[Tensor, " 4"], Float[Tensor, " 4"], Float[Tensor, " 4"]]:
    """Number, mean and variance of the products in every group, over all ranks, in float64.

    The mean comes first and squares are taken about it: a difference of sums would lose the variance of a narrow group.
    """
    keys = ranks.gather(rows)
    one = torch.ones(ranks.total, 1, dtype=torch.float64, device=rows.device)
    numbers = [row_sum(one[: len(rows)], one, fn="identity", scale=1.0, mask=group).sum() for group in groups]
    count = ranks.sum(torch.stack(numbers))
    sums = torch.stack([row_sum(rows, keys, fn="identity", mask=group, **options).sum() for group in groups])
    mean = ranks.sum(sums.double()) / count.clamp(min=1)
    squares = [  # to which the mean's own gradient adds nothing
        row_sum(rows, keys, fn="square", row_shift=mu.detach().expand(len(rows)), mask=group, **options).sum()
        for group, mu in zip(groups, mean, strict=True)
    ]
    return count, mean, ranks.sum(torch.stack(squares).double()) / count.clamp(min=1)


def _kl(mean: Float[Tensor, "2 2"], variance: Float[Tensor, "2 2"]) -> Float[Tensor, " 2"]:
    """Kullback-Leibler divergence of two normals, the first from the second."""
    (mu_a, mu_c), (var_a, var_c) = mean.T, variance.T + _VARIANCE_FLOOR
    return ((var_a + (mu_a - mu_c).square()) / var_c - torch.log(var_a / var_c) - 1) / 2


def _moment_distance(mean: Float[Tensor, "2 2"], variance: Float[Tensor, "2 2"]) -> Float[Tensor, " 2"]:
    some = variance > 0  # a root has no slope at 0
    deviation = variance.where(some, torch.ones_like(variance)).sqrt().where(some, torch.zeros_like(variance))
    (mu_a, mu_c), (sd_a, sd_c) = mean.T, deviation.T
    return (mu_a - mu_c).square() + (sd_a - sd_c).square()


class FairKLLoss(PooledLoss):
    """FairKL, ``loss(features, labels, bias_labels)``: a penalty to add to a contrastive loss.

    Two rows should be equally similar whether they share the bias or not: the similarities of bias-aligned and of
    bias-conflicting pairs are compared, among positives and among negatives, as normals (``"kl"``) or by their moments.
    It is at least 0, and 0 where the moments agree. It is one number for the batch of all ranks, without a value per
    anchor. Apply it to the encoder's features.

    Args:
        form: ``"kl"``, the divergence of two normals, or ``"moments"``, squared differences of means and deviations.
        reduction: ``"mean"`` or ``"sum"``, which are the same here.
        normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``gather="ring"`` is not offered.

    Call:
        features: [m, d].
        labels: integer class per row [m].
        bias_labels: integer bias per row [m], known in training; -1 here or in labels leaves the row out of all pairs.
        ids: sample ids [m], checked only: which group a pair belongs to, its labels say.

    Returns:
        A scalar; 0 with a graph where no sign has 2 pairs in both groups.

    Raises:
        TypeError: for float or bool labels.
        ValueError: for labels below -1 or not one per row, an unknown form, ``reduction="none"``.

    Reference:
        Carlo Alberto Barbano, Benoit Dufumier, Enzo Tartaglione, Marco Grangetto, Pietro Gori, 2023, Unbiased
        Supervised Contrastive Learning.

    Example:
        >>> labels, bias = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1])
        >>> FairKLLoss(form="moments")(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]), labels, bias)
        tensor(1.)
    """

    def __init__(
        self,
        *,
        form: FairKLForm = "kl",
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("FairKLLoss", gather)
        if form not in get_args(FairKLForm):
            raise ValueError(f"form must be one of {', '.join(get_args(FairKLForm))}, found {form!r}.")
        self.form = form

    def forward(  # type: ignore[override]
        self, features: Tensor, labels: Tensor, bias_labels: Tensor, ids: Tensor | None = None
    ) -> Tensor:
        """Return the penalty of rows [m, d] with labels and bias labels [m]."""
        checked_ids(ids, features)
        return fair_kl(
            features,
            labels,
            bias_labels,
            form=self.form,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
