"""Cross-entropy with the class prior in the logits: a classifier for long-tailed training sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks, debugging, require_equal
from kinfolk.graphs import checked_labels
from kinfolk.losses.base import Impl, Loss, Reduction, checked_ids, one_per_row
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import integer_ids

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def balanced_softmax(
    logits: Float[Tensor, "n C"],
    labels: Int[Tensor, " n"],
    class_counts: Int[Tensor, " C"],
    *,
    gather: Gather = True,
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Cross-entropy of ``logits + log pi`` with ``pi_c = n_c / sum n``.

    Classes with ``n_c = 0`` are masked out: they take no share and receive no gradient.

    Args:
        logits: the classifier's scores as they are.
        labels: class per row; -1 = unlabelled, no anchor.
        class_counts: training samples per class, the same on all ranks.
        gather: whether ranks count their anchors together.

    Returns:
        Values [n] and which rows have a label; the others are 0.

    Example:
        >>> values, valid = balanced_softmax(torch.zeros(2, 2), torch.tensor([0, -1]), torch.tensor([3, 1]))
        >>> values, valid
        (tensor([0.2877, 0.0000]), tensor([ True, False]))
    """
    refuse_ring("BalancedSoftmaxLoss", gather)
    counts = checked_counts(class_counts).to(logits.device)
    if not logits.is_floating_point():
        raise TypeError(f"logits must be a float tensor, found {logits.dtype}.")
    if logits.ndim != 2 or logits.shape[1] != len(counts):
        raise ValueError(
            f"logits must have one column per class: logits {tuple(logits.shape)}, class_counts {tuple(counts.shape)}."
        )
    labels = counted_labels(labels, counts).to(logits.device)
    one_per_row(labels, logits)
    ranks, (logits,) = Ranks.of([logits], gather=gather, what="BalancedSoftmaxLoss")
    if ranks.world > 1 and debugging():
        require_equal(counts, "class_counts")
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits if logits.dtype == torch.float64 else logits.float()
        prior = (counts / counts.sum(dtype=torch.float64)).clamp(min=torch.finfo(torch.float64).tiny).log()
        scores = (logits + prior.to(logits)).masked_fill(counts == 0, -torch.inf)
        valid = labels >= 0
        own = scores.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
        values = torch.logsumexp(scores, 1) - own.where(valid, torch.zeros_like(own))
        return values.where(valid, torch.zeros_like(values)), valid


def checked_counts(class_counts: Sequence[int] | Int[Tensor, " C"]) -> Int[Tensor, " C"]:
    """Check training samples per class: whole numbers, none negative, not all 0.

    Raises:
        TypeError: for float or bool counts.
        ValueError: for counts that are no vector, negative, or all 0.

    Example:
        >>> checked_counts([100, 10, 1])
        tensor([100,  10,   1])
    """
    counts = integer_ids(torch.as_tensor(class_counts), "class_counts")
    if torch.compiler.is_compiling():
        return counts
    if not len(counts) or int(counts.min()) < 0 or not counts.any():
        raise ValueError(f"class_counts must be at least 0, and more for some class; found {counts.tolist()[:20]}.")
    return counts


def counted_labels(labels: Int[Tensor, " n"], counts: Int[Tensor, " C"]) -> Int[Tensor, " n"]:
    """Check that labels are -1 or classes that were counted.

    Raises:
        TypeError: for float or bool labels.
        ValueError: for labels outside the classes, or of a class that was counted 0 times.

    Example:
        >>> counted_labels(torch.tensor([0, 2]), torch.tensor([5, 5, 0]))
        Traceback (most recent call last):
            ...
        ValueError: label 2 belongs to a class with class_counts 0; count the training set again, or use -1.
    """
    labels = checked_labels(labels).to(counts.device)
    if torch.compiler.is_compiling() or not labels.numel():
        return labels
    if int(labels.max()) >= len(counts):
        raise ValueError(f"labels must be below the number of classes, {len(counts)}; found {int(labels.max())}.")
    absent = labels[(labels >= 0) & (counts[labels.clamp(min=0)] == 0)]
    if len(absent):
        raise ValueError(
            f"label {int(absent[0])} belongs to a class with class_counts 0; count the training set again, or use -1."
        )
    return labels


def said_counts(counts: Int[Tensor, " C"]) -> str:
    """Return the counts for a printed module, in short where there are many.

    Example:
        >>> said_counts(torch.tensor([100, 10, 1]))
        'class_counts=[100, 10, 1]'
    """
    some = ", ".join(map(str, counts[:8].tolist()))
    return f"class_counts=[{some}{f', ... {len(counts)} classes' if len(counts) > 8 else ''}]"


class BalancedSoftmaxLoss(Loss):
    """Balanced softmax, ``loss(logits, labels)``: cross-entropy of ``logits + log(class frequency)``.

    The prior is in the loss only: predict from the plain logits. Equal counts give cross-entropy, and a constant factor
    on the counts changes nothing. Classes that never occur are masked out.

    Args:
        class_counts: training samples per class [C], whole numbers; saved with the module.
        reduction: as in `kinfolk.losses.base.Loss`.
        normalize: False; logits are never normalised.
        gather: whether ranks count their anchors together; ``"ring"`` is not offered.
        impl: without effect: no rows are paired.

    Call:
        logits: a classifier's scores [n, C].
        labels: integer class per row [n]; -1 = unlabelled, not counted.
        ids: sample ids [n], checked only: no rows are paired.

    Returns:
        A scalar, or [n] for ``reduction="none"``; 0 with a graph when no row has a label.

    Raises:
        TypeError: for float or bool labels or counts, or logits that are not float.
        ValueError: for logits that do not have C columns, labels outside [-1, C) or of a class with count 0, counts
            that are negative or all 0, ``normalize=True``.

    Reference:
        Jiawei Ren, Cunjun Yu, Shunan Sheng, Xiao Ma, Haiyu Zhao, Shuai Yi, Hongsheng Li, 2020, Balanced Meta-Softmax
        for Long-Tailed Visual Recognition.

    Example:
        >>> BalancedSoftmaxLoss([3, 1])(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor(0.8370)
    """

    class_counts: Tensor

    def __init__(
        self,
        class_counts: Sequence[int] | Tensor,
        *,
        reduction: Reduction = "mean",
        normalize: bool = False,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("BalancedSoftmaxLoss", gather)
        if normalize:
            raise ValueError("BalancedSoftmaxLoss takes logits, which are never normalised; found normalize=True.")
        self.register_buffer("class_counts", checked_counts(class_counts).clone())

    def extra_repr(self) -> str:
        """Return the options."""
        return f"{super().extra_repr()}, {said_counts(self.class_counts)}"

    def forward(self, logits: Tensor, labels: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of scores [n, C] with labels [n]."""
        checked_ids(ids, logits)
        return self.reduce(*balanced_softmax(logits, labels, self.class_counts, gather=self.gather))
