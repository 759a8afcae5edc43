"""Which negatives are none: samples of the anchor's kind, found by similarity or by an oracle's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Literal, NamedTuple, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.distributed import all_gather
from kinfolk.nn import Progress, QueueSnapshot
from kinfolk.ops import PairMask, row_topk

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64

    from kinfolk.methods.plan import TrainingPlan

    Labels = Int64[Tensor, " n"] | None

_Detector = Literal["none", "similarity", "labels"]


@dataclass(frozen=True)
class FalseNegativesConfig:
    """How negatives are found that are none, and when they begin to leave.

    Raises:
        ValueError: for another detector, or shares outside [0, 1).

    Example:
        >>> FalseNegativesConfig(detector="similarity", share=0.02).is_on
        True
    """

    detector: _Detector = "none"
    """Which candidates are no negatives of a sample: none, the most similar ones, or those of the same label, which is
    an upper bound on any detector."""
    share: float = 0.05
    """Share of the candidates that leave each sample's negatives for their similarity; below 1."""
    start: float = 0.1
    """Share of training before any leaves: similarities mean little at first."""

    def __post_init__(self) -> None:
        if self.detector not in get_args(_Detector):
            raise ValueError(f"detector must be one of {', '.join(get_args(_Detector))}, found {self.detector!r}.")
        for name in ("share", "start"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, found {getattr(self, name)}.")

    @property
    def is_on(self) -> bool:
        """Whether anything is looked for."""
        return self.detector != "none"

    @property
    def labels_used(self) -> str:
        """Which labels training sees for it: all of them where they say which negatives are false."""
        return "all" if self.detector == "labels" else "none"

    def build(self) -> FalseNegatives:
        """Build the search; without a detector it finds nothing and has no state."""
        return FalseNegatives(self)


@final
class FalseNegatives(nn.Module):
    """The search for false negatives, among the samples of a batch or in a queue of earlier keys.

    Nothing is found before `start` of training. With several processes the batch is that of all of them. `begin` and
    `after_step` belong into the methods of these names; a search in eval mode or without gradient counts for nothing.

    Reference: Huynh, Kornblith, Walter, Maire, Khademi (2022), Boosting Contrastive Self-Supervised Learning with False
    Negative Cancellation (by similarity). Gupta, Akhtar, Mian, Shah (2022), Contrastive Self-Supervised Learning Leads
    to Higher Adversarial Susceptibility (labels as an oracle).

    Example:
        >>> search = FalseNegativesConfig(detector="similarity", share=0.5, start=0.0).build()
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
        >>> search.among_samples([rows, rows], torch.arange(3), None)[0]
        tensor([[2],
                [2],
                [0]])
    """

    def __init__(self, config: FalseNegativesConfig) -> None:
        super().__init__()
        self.config = config
        self.progress = Progress() if config.is_on else None
        self._searched = False

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is."""
        if self.progress is not None:
            self.progress.begin(plan.total_steps)

    def after_step(self) -> None:
        """Count the step, if there was a search in it."""
        if self.progress is not None and self._searched:
            self.progress.advance()
        self._searched = False

    def among_samples(
        self, views: Sequence[Float[Tensor, "n d"]], ids: Int64[Tensor, " n"], labels: Labels
    ) -> tuple[Int64[Tensor, "n k"] | None, dict[str, Tensor]]:
        """Return which samples of the batch are no negatives of each of this process's samples.

        Args:
            views: rows of each view; samples are compared by the sum of their unit rows.
            ids: of the samples; none is its own false negative.
            labels: of the samples, for the detector that asks for them, and for the log; -1 equals nothing.

        Returns:
            Positions in the batch of all processes, rank after rank, -1 filling up; None while nothing is looked for.
            And for the log `excluded_share` of the samples and, with labels, `false_negative_precision`, the share of
            these that have the sample's label; nothing without a detector.

        Raises:
            ValueError: for the detector `labels` and none in the batch.
        """
        is_searching = self._is_searching()
        with torch.no_grad():
            all_ids, all_labels = all_gather(ids), None if labels is None else all_gather(labels)
            if not is_searching:
                return None, self._health(None, labels, all_labels, len(all_ids))
            if self.config.detector == "labels":
                mine, theirs = self._required(labels, all_labels)
                alike = (mine[:, None] == theirs) & (mine[:, None] >= 0) & (ids[:, None] != all_ids)
                found = _listed(alike)
            else:
                rows = _joined(views)
                found = _nearest(rows, all_gather(rows), self.config.share, PairMask.exclude(ids, all_ids))
            return found, self._health(found, labels, all_labels, len(all_ids))

    def in_queue(
        self, views: Sequence[Float[Tensor, "n d"]], queue: QueueSnapshot, ids: Labels, labels: Labels
    ) -> tuple[Dropped, dict[str, Tensor]]:
        """Return which rows of a queue are no negatives of each sample.

        Args:
            views: the samples' own keys of each view, whose sum of unit rows the queue's rows are compared with.
            queue: as it was.
            ids: of the samples, whose own earlier keys are not looked for; None where nobody knows.
            labels: as in `among_samples`.

        Returns:
            What is dropped, and the log as `among_samples` has it.
        """
        is_searching, size = self._is_searching(), len(queue.ids)
        with torch.no_grad():
            if not is_searching:
                return Dropped(), self._health(None, labels, queue.labels, size)
            if self.config.detector == "labels":
                mine, theirs = self._required(labels, queue.labels)
                share = ((mine[:, None] == theirs) & (mine[:, None] >= 0)).float().mean()
                health = {"excluded_share": share, "false_negative_precision": (share > 0).float()}
                return Dropped(equal=((mine, theirs),)), health
            own = None if ids is None else PairMask.exclude(ids, queue.ids)
            found = _nearest(_joined(views), queue.features, self.config.share, own)
            return Dropped(columns=found), self._health(found, labels, queue.labels, size)

    def _is_searching(self) -> bool:
        if self.progress is None:
            return False
        self._searched |= self.training and torch.is_grad_enabled()
        return self.progress.has_reached(self.config.start)

    def _required(self, labels: Labels, theirs: Labels) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " m"]]:
        if labels is None or theirs is None:
            raise ValueError(
                "false negatives by labels need batches with labels, and found none; choose the detector similarity."
            )
        return labels, theirs

    def _health(
        self, found: Int64[Tensor, "n k"] | None, labels: Labels, theirs: Labels, size: int
    ) -> dict[str, Tensor]:
        """What is excluded, and with labels how rightly; zeros while nothing is."""
        if self.progress is None:
            return {}
        if found is None:
            found = self.progress.step.new_full((1, 1), -1)
        there = found >= 0
        health = {"excluded_share": there.sum() / max(len(there) * size, 1)}
        if labels is not None and theirs is not None:
            mine = labels[: len(found), None]
            right = (theirs[found.clamp(min=0)] == mine) & (mine >= 0) & there
            health["false_negative_precision"] = right.sum() / there.sum().clamp(min=1)
        return health


class Dropped(NamedTuple):
    """Rows of a queue that are no candidates.

    Args:
        equal: pairs of ids ``(of the queries [n], of the rows [K])``, equal ones being dropped; -1 equals nothing.
        columns: rows listed for every query [n, k]; -1 fills up.

    Example:
        >>> dropped = Dropped(columns=torch.tensor([[1], [-1]])) | Dropped(equal=((torch.arange(2), torch.arange(2)),))
        >>> dropped.mask(2).to_dense().int().tolist()
        [[0, 0], [1, 0]]
    """

    equal: tuple[tuple[Int64[Tensor, " n"], Int64[Tensor, " K"]], ...] = ()
    columns: Int64[Tensor, "n k"] | None = None

    def __or__(self, other: Dropped) -> Dropped:
        """Drop what either drops; one of them at most lists columns."""
        assert self.columns is None or other.columns is None
        return Dropped(self.equal + other.equal, other.columns if self.columns is None else self.columns)

    def mask(self, size: int, *, before: int = 0) -> PairMask | None:
        """Return the candidates that stay, or None where all do.

        Args:
            size: rows of the queue.
            before: candidates that stand before the queue's rows, and of which none is dropped.
        """
        masks = [PairMask.exclude(mine, F.pad(theirs, (before, 0), value=-1)) for mine, theirs in self.equal]
        if self.columns is not None:
            columns = self.columns.where(self.columns < 0, self.columns + before)
            masks.append(PairMask.exclude_columns(columns, before + size))
        return reduce(and_, masks) if masks else None


def _joined(views: Sequence[Float[Tensor, "n d"]]) -> Float[Tensor, "n d"]:
    return torch.stack([F.normalize(view.detach().float(), dim=1) for view in views]).sum(0)


def _nearest(
    rows: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], share: float, mask: PairMask | None
) -> Int64[Tensor, "n k"]:
    """The most similar candidates: a share of those beside the own one, rounded down."""
    k = int(share * (len(candidates) - 1))
    if not k or not len(rows):
        return torch.full((len(rows), 0), -1, device=rows.device)
    return row_topk(rows, candidates.to(rows), k=k, mask=mask, normalize=True)[1]


def _listed(alike: Bool[Tensor, "n m"]) -> Int64[Tensor, "n k"]:
    """The columns of the true places, as long as the longest list; -1 fills up."""
    columns = alike.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    columns = columns.where(alike.gather(1, columns), -1)
    return columns[:, : max(alike.sum(1).tolist(), default=0)]
