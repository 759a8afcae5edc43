"""Captions for images that have none, found among captions without images by the two towers that are in training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import Tensor, nn

from kinfolk.methods.health import share
from kinfolk.nn import Progress
from kinfolk.theory import Match, match

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float

    from kinfolk.methods.plan import TrainingPlan

_CHUNK = 256


@dataclass(frozen=True)
class PartnersConfig:
    """Whether and when images without captions look for one, and how.

    Raises:
        ValueError: for a matching that does not exist, or shares of training out of range.

    Example:
        >>> PartnersConfig("mutual", start=0.5).every
        0.1
    """

    how: Literal["none", "argmax", "mutual", "assignment", "sinkhorn"] = "none"
    """How images and captions are matched, see `kinfolk.theory.match`; with none, an image without a caption is an
    error."""
    start: float = 0.3
    """Share of training on the pairs alone."""
    every: float = 0.1
    """After this share of training all are matched anew."""

    def __post_init__(self) -> None:
        if self.how not in ("none", "argmax", "mutual", "assignment", "sinkhorn"):
            raise ValueError(f"how must be none, argmax, mutual, assignment or sinkhorn; found {self.how!r}")
        if not (0 <= self.start <= 1 and 0 < self.every <= 1):
            raise ValueError(f"start and every are shares of training; found {self.start} and {self.every}")


@final
class Partners(nn.Module):
    """Who of the images without caption and the captions without image belong together, as far as training knows.

    At the share `start` of training, and then every `every` of it, all of them are embedded and matched by their
    cosines, with the inverse temperature that training has come to; a caption that is there several times may go to as
    many images. An image that was matched has its partner as its caption, and counts in the loss with the match's
    confidence; one that was not counts 0, and a caption drawn for it is there as a negative only. Pairs count 1.

    Only cosines say who belongs to whom. The matches are state, so that a resumed run goes on with them.

    Attributes:
        ids: int64 [n], images without a caption, ascending.
        columns: int64 [n], number of the caption of each among the distinct ones, -1 for none.
        confidence: float [n], between 0 and 1.
        reached: int64 scalar, how many rounds there were.
        digest: int64 scalar, of the captions, so that a run goes on with those that it began with.

    Reference: Nakada, Gulluk, Deng, Ji, Zou, Zhang (2023), Understanding Multimodal Contrastive Learning and
        Incorporating Unpaired Data. Confidences, and the weights they become, are ours.
    """

    ids: Tensor
    columns: Tensor
    confidence: Tensor
    reached: Tensor
    digest: Tensor

    def __init__(self, config: PartnersConfig) -> None:
        super().__init__()
        self.config = config
        self.progress = Progress()

    def begin(self, plan: TrainingPlan) -> None:
        """Learn which images have no caption and which captions have no image.

        Raises:
            ValueError: for a stream, without captions, or where one of the sides is missing.
        """
        ids = plan.known_ids("CLIP with partners")
        alone = torch.tensor([not text.strip() for text in plan.captions or ()], dtype=torch.bool)
        paired = int((~alone).sum())
        said = Counter(text for text in plan.loose_captions if text.strip())
        if not (len(alone) and 0 < paired < len(alone) and said):
            raise ValueError(
                f"partners are found among images without captions and captions without images, by what some pairs "
                f"teach; found {paired} pairs, {len(alone) - paired} images with an empty caption and "
                f"{said.total()} captions without an image. Add captions by --derive "
                '"loose-captions file=FILE", or break pairs up by --derive "unpaired paired=0.2".'
            )
        self.progress.begin(plan.total_steps)
        self.captions, self.copies = list(said), torch.tensor(list(said.values()))
        self.features_of_all = plan.features
        self.where = alone.nonzero().flatten()  # among all training samples
        self.register_buffer("ids", ids[self.where])
        self.register_buffer("columns", torch.full((len(self.where),), -1))
        self.register_buffer("confidence", torch.zeros(len(self.where)))
        self.register_buffer("reached", torch.zeros((), dtype=torch.int64))
        self.register_buffer("digest", self._digest_of_captions())
        self.register_load_state_dict_post_hook(_check_captions)

    def complete(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with a caption for every image, and in `pair_weight` how far it is believed to be its own.

        Raises:
            ValueError: before `begin`, or for an image without caption that training did not name.
        """
        if not hasattr(self, "ids"):
            raise ValueError("partners are found among all images: call method.begin(TrainingPlan(...)) first.")
        if not {"text", "ids"} <= batch.keys():
            raise ValueError(f"partners need each image's text and id; found batch keys {sorted(batch)}.")
        texts, ids = list(batch["text"]), batch["ids"]
        alone = torch.tensor([not text.strip() for text in texts], device=ids.device)
        places = torch.searchsorted(self.ids, ids).clamp(max=len(self.ids) - 1)
        strange = ids[alone & (self.ids[places] != ids)]
        if len(strange):
            raise ValueError(
                f"{len(strange)} images without a caption are not among those of method.begin(plan), the first has id "
                f"{int(strange[0])}."
            )
        found = zip(self.columns[places].tolist(), ids.tolist(), strict=True)  # at once: a GPU waits for each reading
        for row, (column, sample) in enumerate(found):
            if not texts[row].strip():
                texts[row] = self.captions[column if column >= 0 else sample % len(self.captions)]
        weight = torch.where(alone, self.confidence[places], 1.0)
        return {**batch, "text": texts, "pair_weight": weight, "completed": alone}

    def after_step(
        self,
        images: nn.Module,
        encode_text: Callable[[Sequence[str]], Float[Tensor, "n d"]],
        *,
        temperature: float,
    ) -> None:
        """Match anew when it is time.

        Args:
            images: from images to the common space.
            encode_text: from captions to the common space.
            temperature: of the cosines.
        """
        self.progress.advance()
        due = self.progress.rounds(start=self.config.start, every=self.config.every)
        if self.progress.share() >= 1 or due <= int(self.reached):  # at the very end nothing would use it
            return
        with torch.no_grad():
            rows = self.features_of_all(images)[self.where]
            parts = [encode_text(self.captions[i : i + _CHUNK]) for i in range(0, len(self.captions), _CHUNK)]
            words = torch.cat(parts).to(rows)
        seen = rows.any(1)  # what cannot be read has no features
        found = self._matched(rows[seen], words, temperature)
        self.columns.fill_(-1).masked_scatter_(seen, found.columns)
        self.confidence.zero_().masked_scatter_(seen, found.confidence.to(self.confidence))
        self.reached.fill_(due)

    def _matched(self, rows: Float[Tensor, "n d"], words: Float[Tensor, "m d"], temperature: float) -> Match:
        assert self.config.how != "none"
        masses = None
        spare = int(self.copies.sum()) - len(rows)
        if self.config.how == "sinkhorn" and spare > 0:
            # Every caption gives away all it has. A row that prefers none takes what the images leave over.
            rows, masses = torch.cat([rows, torch.zeros_like(rows[:1])]), rows.new_ones(len(rows) + 1)
            masses[-1] = spare
        found = match(
            (rows, words),
            how=self.config.how,
            copies=self.copies,
            temperature=temperature,
            row_mass=masses,
            normalize=True,
        )
        return found if masses is None else Match(found.columns[:-1], found.confidence[:-1])

    def health(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return `matched_share` of the batch's images without caption, and `match_precision` where `true_text` tells.

        Over several processes the means are the whole batch's. Before the first round no precision is there. It goes by
        words: a caption that is said twice is right for both.
        """
        alone = batch["completed"]
        matched = alone & (batch["pair_weight"] > 0)
        terms = {"matched_share": share(matched, alone)}
        if "true_text" in batch and self.progress.rounds(start=self.config.start, every=self.config.every):
            pairs = zip(batch["text"], batch["true_text"], strict=True)
            right = torch.tensor([text == true for text, true in pairs], device=matched.device)
            terms["match_precision"] = share(right & matched, matched)
        return terms

    def _digest_of_captions(self) -> Tensor:
        digest = hashlib.blake2b("\0".join(self.captions).encode("utf-8", errors="replace"), digest_size=8).digest()
        return torch.tensor(int.from_bytes(digest, "big") >> 1)


def _check_captions(partners: Partners, _: Any) -> None:
    if not torch.equal(partners.digest.cpu(), partners._digest_of_captions()):
        raise ValueError(
            "the captions without image are not those that this run began with; resume with the same ones, or start a "
            "new run."
        )
