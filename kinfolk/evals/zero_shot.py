"""Zero-shot classification: the nearest class name, without a labelled image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from kinfolk.evals.class_accuracy import accuracies
from kinfolk.evals.neighbours import normalised
from kinfolk.evals.protocol import Measurement, SubjectEvaluator
from kinfolk.evals.towers import image_rows, text_rows

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from kinfolk.evals.subject import Subject


@dataclass(frozen=True)
class ZeroShot(SubjectEvaluator):
    """Accuracy of naming test images by the nearest class: the mean over prompts made of its name.

    Every template makes a prompt of a class's name; a class is the mean of its prompts' places in the common space,
    normalised. Hyphens and underscores in names are read as spaces; of two names that read the same the first class is
    said. The candidates are the classes that the test part
    has.

    Args:
        templates: prompts; ``{}`` stands for the name.

    Raises:
        ValueError: for no template, or one without ``{}``.

    Reference: Radford et al. (2021), Learning Transferable Visual Models From Natural Language Supervision.

    Example:
        >>> ZeroShot(templates=("a drawing of a {}",)).templates
        ('a drawing of a {}',)
    """

    templates: tuple[str, ...] = ("{}", "a picture of a {}", "a drawing of a {}")

    protocol: ClassVar[str] = "zero-shot"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", tuple(self.templates))  # as YAML reads it
        if not self.templates or any("{}" not in template for template in self.templates):
            raise ValueError(f"templates must be prompts with {{}} for the class's name; got {self.templates}.")

    def missing(self, subject: Subject) -> str | None:
        """Say that there is no text tower, or that the classes have no names."""
        if subject.towers is None:
            return "no text towers"
        return "no class names" if subject.test.class_names is None else None

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield accuracy and accuracy among the first five, where there are more classes than that."""
        names = subject.test.class_names
        if subject.towers is None or names is None:
            return
        images = image_rows(
            subject.towers, subject.test, batch_size=subject.batch_size, device=subject.device
        ).labelled()
        assert images.labels is not None
        present = images.labels.unique()
        scores = normalised(images.rows) @ self._classes(subject, [names[k] for k in present.tolist()]).T
        details = {"classes": len(present), "test_rows": len(images), "prompts": len(self.templates)}
        yield from accuracies(present[scores.argmax(1)], images.labels, details=details)
        if len(present) > 5:
            five = present[scores.topk(5, dim=1).indices]
            among = (five == images.labels[:, None]).any(1).double().mean().item()
            yield Measurement("top-5 accuracy", among, better="higher", details=details)

    def _classes(self, subject: Subject, names: Sequence[str]) -> Float[Tensor, "k d"]:
        read = [name.replace("-", " ").replace("_", " ") for name in names]
        prompts = [template.replace("{}", name) for name in read for template in self.templates]
        assert subject.towers is not None
        rows = text_rows(subject.towers, prompts, batch_size=subject.batch_size, device=subject.device)
        return torch.nn.functional.normalize(rows.unflatten(0, (len(read), len(self.templates))).mean(1), dim=1)
