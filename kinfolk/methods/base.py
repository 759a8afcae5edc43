"""What every training method promises to the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


class Method(nn.Module, ABC):
    """A training method: which modules, which loss, and what happens after a step.

    Before the first step comes `method.begin(plan)`, which tells how long training is and which samples it sees. A step
    is `terms = method(batch)`, backward from `terms["loss"]`, the optimiser's step, `method.after_step()`.
    `forward` has two parts: `embed`, which treats each sample by itself, and `terms`, which compares them. So a large
    batch can pass the encoder in chunks (see `kinfolk.train.cached_backward`) and be contrasted as a whole. Everything
    that needs a gradient happens in these two, since data-parallel wrappers synchronise only in `forward`. All that a
    resumed run needs is in `state_dict`.

    Attributes:
        encoder: what is evaluated and exported; from float images `[b, C, H, W]` to `[b, feature_dim]`.
        relation: where the target graph comes from, for methods that match one; None otherwise.
    """

    encoder: nn.Module
    relation: Relation | None = None

    def begin(self, plan: TrainingPlan) -> None:
        """Make what depends on the training ahead: schedules, and buffers with a row for every sample.

        The trainer calls it once, on a fresh method, before an optimiser is built, the method is moved to its device,
        or a checkpoint is restored. Most methods need nothing.

        Args:
            plan: how long training is, and on what.
        """

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the batch with what must be made from all of it before it is embedded, such as attacked views.

        It comes once a step, before the batch is split into chunks, on all ranks together. Most methods add nothing.

        Args:
            batch: as in `forward`; it is not changed.
        """
        return batch

    @abstractmethod
    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return what the loss compares, with gradient; row k of each tensor belongs to sample k.

        Args:
            batch: as `prepare` returned it, or some of its samples.
        """

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return embeddings that no gradient flows into, as of an EMA encoder; most methods have none."""
        return ()

    @abstractmethod
    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the named terms of the embeddings of a whole batch; see `forward`.

        Args:
            embeddings: what `embed` returned.
            batch: the batch.
            keys: what `embed_keys` returned.
        """

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the named terms of a batch.

        Args:
            batch: `views` (list of float images `[b, C, H, W]`), `ids` int64 `[b]`, and what the method asks for
                among `labels` and `text_embedding`. With several processes, this process's share of the batch.

        Returns:
            `"loss"` is the total to minimise; with several processes it is their mean that counts. All other terms
            are detached scalars that show a run's health; they are not comparable between methods.
        """
        batch = self.prepare(batch)
        return self.terms(self.embed(batch), batch, keys=self.embed_keys(batch))

    def after_step(self) -> None:
        """Do what follows the optimiser's step; most methods have nothing to do."""

    def negatives(self, *, samples: int, views: int) -> int | None:
        """Return how many rows of other samples an anchor is contrasted with, None where that has no meaning.

        Args:
            samples: in the batch of all processes.
            views: of each sample.
        """
        return None
