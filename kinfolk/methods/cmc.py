"""CMC: what an image looks like through one channel should say which image it is through another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.data.counter import counter_generator, counter_seed
from kinfolk.losses import CMCLoss, InfoNCELoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_views
from kinfolk.methods.health import projection_health
from kinfolk.nn import HeadConfig, MemoryBank, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


@dataclass(frozen=True)
class CMCConfig:
    """Settings of `CMC`; the encoder has a branch per view, as that of `ColourBranchesConfig` has.

    Raises:
        ValueError: for numbers out of range, naming the field.

    Example:
        >>> from kinfolk.nn import ColourBranchesConfig
        >>> method = CMCConfig().build(ColourBranchesConfig().build(channels=3, image_size=(8, 8)))
        >>> views = [torch.rand(4, 1, 8, 8), torch.rand(4, 2, 8, 8)]
        >>> sorted(method({"views": views, "ids": torch.arange(4)}))
        ['loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "cmc"
    labels_used: ClassVar[str] = "none"
    temperature: float = 0.07
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    core: int | None = None
    """The view that every pair of views must contain; None contrasts all pairs."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(layers=1))
    """The projection head behind every branch, each with weights of its own; one linear layer by default."""
    bank: bool = False
    """Contrast with a memory bank of each view instead of with the batch, for batches too small to."""
    bank_negatives: int = 4096
    """Bank rows that a step contrasts with, at most one per training sample."""
    bank_momentum: float = 0.5
    """Share of a sample's old row that an update of the bank keeps, at least 0 and below 1."""
    seed: int = 0
    """Of the bank's first rows and of the rows drawn from it."""

    def __post_init__(self) -> None:
        if self.bank_negatives < 1:
            raise ValueError(f"bank_negatives must be at least 1, found {self.bank_negatives}.")
        if not 0 <= self.bank_momentum < 1:
            raise ValueError(f"bank_momentum must be at least 0 and below 1, found {self.bank_momentum}.")

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> CMC:
        """Build the method around an encoder with branches; CMC leaves `relation` unused.

        Raises:
            TypeError: for an encoder without branches.
            ValueError: for a core that is none of the branches.
        """
        return CMC(encoder, self)


@final
class CMC(Method):
    """A softmax over the other samples, between the views of different encoders.

    Each view has an encoder of its own, a branch of `encoder`, and a head. The rows of one view are contrasted with
    those of the other views in both directions; rows of one view are not contrasted with one another. What is evaluated
    and exported concatenates the features of all branches, so compare it with an encoder of as many features.

    In forward: each view through its branch and head; `CMCLoss` over the views of the batch. Nothing happens after a
    step. A batch of one sample has no negative and gives 0.

    With `bank` every view has a memory bank, a row per training sample. A row of view a has as its positive what the
    bank of view b keeps of the same sample, and as negatives the rows there of samples that are drawn uniformly without
    replacement, the same ones for all rows, views and processes of a step, and a function of (seed, step); a sample
    that is drawn itself is left out of its own negatives. The losses of all ordered pairs of views are added, as
    without a bank. Bank rows are constants. After the step each bank takes in the rows of its view. Until a sample
    has been seen its row is random, and so is its positive: the first pass over the data teaches little.

    Terms beside the loss: `positive_cosine` between the views, `participation_ratio` of the projections; with a bank
    `bank_fill`, the share of its rows that come from data.

    Reference: Tian, Krishnan, Isola (2020), Contrastive Multiview Coding.
    """

    banks: nn.ModuleList
    step: Tensor

    def __init__(self, encoder: nn.Module, config: CMCConfig) -> None:
        super().__init__()
        branches = getattr(encoder, "branches", None)
        if not isinstance(branches, nn.ModuleList) or len(branches) < 2:
            raise TypeError(
                f"CMC trains an encoder per view and needs one with `branches`, a ModuleList of two or more; found "
                f"{type(encoder).__name__}. Choose ColourBranchesConfig, with ColourSpaceViewsConfig for the views."
            )
        if config.core is not None and not 0 <= config.core < len(branches):
            raise ValueError(
                f"core must be one of the {len(branches)} views, 0 to {len(branches) - 1}, or None for all; found "
                f"{config.core}."
            )
        self.encoder = encoder
        heads = [config.head.build(encoder_dim(branch)) for branch in branches]
        self.heads = nn.ModuleList(heads)
        self.dims = [head.out_dim for head in heads]
        self.loss = CMCLoss(temperature=config.temperature, core=config.core)
        self.config = config
        if config.bank:
            self.bank_loss = InfoNCELoss(temperature=config.temperature)
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def begin(self, plan: TrainingPlan) -> None:
        """Make a bank for each view, with a row for every training sample, if the config asks for banks."""
        config = self.config
        if config.bank:
            ids = plan.known_ids("CMC with a bank")
            self.banks = nn.ModuleList(
                MemoryBank(ids, dim, momentum=config.bank_momentum, seed=counter_seed(config.seed, view))
                for view, dim in enumerate(self.dims)
            )

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view, through its own branch and head."""
        views = read_views(batch, method="CMC", count=len(self.heads), same_size=False)
        parts = zip(self.heads, self.encoder.branches, views, strict=True)  # type: ignore[arg-type]
        return tuple(head(branch(view)) for head, branch, view in parts)

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep the rows for `after_step` where there are banks."""
        health = projection_health(embeddings)
        if not self.config.bank:
            return {"loss": self.loss(embeddings, ids=read_ids(batch)), **health}
        banks = self._all_banks()
        if not banks:
            raise ValueError("CMC's banks have a row per sample: call method.begin(TrainingPlan(...)) first.")
        if "ids" not in batch:
            raise ValueError(f"CMC finds samples in its banks by ids; found batch keys {sorted(batch)}.")
        loss = self._against_banks(embeddings, batch["ids"])
        for bank, rows in zip(banks, embeddings, strict=True):
            bank.hold(rows, batch["ids"])
        return {"loss": loss, "bank_fill": banks[0].seen.float().mean(), **health}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the other samples, each once: a row is contrasted within one other view at a time."""
        if not self.config.bank:
            return samples - 1
        return min([self.config.bank_negatives, *(len(bank) - 1 for bank in self._all_banks())])

    def after_step(self) -> None:
        """Take the rows of the training passes since the last call into the banks, if there are any."""
        changed = [bank.flush() for bank in self._all_banks()]
        if any(map(len, changed)):
            self.step += 1

    def drawn(self) -> Int64[Tensor, " M"]:
        """Return the numbers of the bank rows that this step contrasts with."""
        size, generator = len(self._all_banks()[0]), counter_generator(self.config.seed, int(self.step))
        return torch.randperm(size, generator=generator)[: self.config.bank_negatives].to(self.step.device)

    def _all_banks(self) -> list[MemoryBank]:
        return list(self.banks) if hasattr(self, "banks") else []  # type: ignore[arg-type]

    def _against_banks(self, embeddings: Sequence[Float[Tensor, "n d"]], ids: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return the sum over ordered pairs of views of the loss of one against the other's bank."""
        banks, drawn, core = self._all_banks(), self.drawn(), self.config.core
        own, others = [bank.rows_of(ids) for bank in banks], [bank.rows[drawn] for bank in banks]
        exclude = (ids, banks[0].ids[drawn])
        pairs = [pair for pair in permutations(range(len(banks)), 2) if core is None or core in pair]
        losses = [self.bank_loss(embeddings[a], own[b], others[b], exclude=exclude) for a, b in pairs]
        return torch.stack(losses).sum()
