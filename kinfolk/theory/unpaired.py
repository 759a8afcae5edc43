"""Learning from pairs and from what nobody paired: fit, match, fit again on the matches, and so on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from kinfolk.theory.matching import Match, match
from kinfolk.theory.subspaces import svd_solution

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from kinfolk.theory.matching import How


@dataclass(frozen=True)
class UnpairedFit:
    """Linear maps fitted on pairs and matches.

    Attributes:
        g1: map of the first modality [r, a].
        g2: map of the second [r, b].
        matches: what every round matched, before it fitted anew; the first by the maps of the pairs alone.
        kept: how many rounds the maps rest on; fewer than `matches` where the held-out pairs spoke against the last.
        losses: on the held-out pairs, before the first round and after each; empty without validation.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> fit_unpaired(x, x, x, x, 1, rounds=1, validation=0).matches[0].columns
        tensor([0, 1])
    """

    g1: Float[Tensor, "r a"]
    g2: Float[Tensor, "r b"]
    matches: tuple[Match, ...]
    kept: int
    losses: tuple[float, ...]


def fit_unpaired(
    x: Float[Tensor, "n a"],
    y: Float[Tensor, "n b"],
    more_x: Float[Tensor, "m a"],
    more_y: Float[Tensor, "k b"],
    rank: int,
    *,
    how: How = "mutual",
    rounds: int = 3,
    temperature: float = 0.05,
    validation: float = 0.2,
) -> UnpairedFit:
    """Fit linear maps on pairs (`svd_solution`), then on the pairs and on the matches they find among the rest.

    A round scores all rows of `more_x` against all of `more_y` by the cosine of their projections, matches them
    (`kinfolk.theory.match`), and fits anew on the true pairs with weight 1 and the matches with their confidence. Rows
    without a partner are left out. Only scores say who belongs to whom: the order of the rows never enters, and
    permuted rows give the same fit.

    Matches also teach what each modality looks like by itself, right or wrong: where a modality's strongest directions
    are the shared ones that helps even with few right matches, and where they are its own, rounds forget what the pairs
    knew. So the last pairs are held out, and the first round that makes their contrastive loss worse by more than the
    standard error of that difference ends the rounds and is dropped. The maps returned are fitted on all pairs and the
    matches that were kept.

    Args:
        x, y: pairs [n, a] and [n, b], in random order.
        more_x: rows of the first modality without partner [m, a].
        more_y: rows of the second [k, b].
        rank: as in `svd_solution`.
        how: how rows are matched, as in `match`; ``"mutual"`` takes few and sure ones, ``"assignment"`` and
            ``"sinkhorn"`` use that nobody has two partners.
        rounds: how often at most; 0 is the fit of the pairs.
        temperature: of confidence and held-out loss, on cosines.
        validation: share of the pairs to hold out, the last ones; 0 keeps every round.

    Raises:
        ValueError: as `svd_solution` and `match`; for widths that differ from the pairs', negative rounds, or a
            `validation` that leaves fewer than two pairs on one of the sides.

    Reference:
        Ryumei Nakada, Halil Ibrahim Gulluk, Zhun Deng, Wenlong Ji, James Zou, Linjun Zhang, 2023, Understanding
        Multimodal Contrastive Learning and Incorporating Unpaired Data. Confidences, the held-out pairs and matchings
        other than ``"argmax"`` are ours.

    Example:
        >>> from kinfolk.theory import SpikedModel, match_precision
        >>> pairs = SpikedModel(dims=(12, 11), rank=6, noise=0.1).draw(120)
        >>> order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
        >>> found = fit_unpaired(pairs.x[:60], pairs.y[:60], pairs.x[60:], pairs.y[60:][order], rank=6)
        >>> match_precision(found.matches[0].columns, order.argsort()) > 0.8
        True
    """
    if rounds < 0:
        raise ValueError(f"rounds must be at least 0, found {rounds}.")
    if more_x.ndim != 2 or more_y.ndim != 2 or (more_x.shape[1], more_y.shape[1]) != (x.shape[-1], y.shape[-1]):
        raise ValueError(
            f"expected unpaired rows [m, {x.shape[-1]}] and [k, {y.shape[-1]}], found {tuple(more_x.shape)} and "
            f"{tuple(more_y.shape)}."
        )
    held = round(validation * len(x))
    if validation and not 2 <= held <= len(x) - 2:
        raise ValueError(
            f"validation={validation} holds out {held} of {len(x)} pairs, and two are needed on each side; "
            "bring more pairs, or validation=0."
        )
    fitted = len(x) - held

    def scored(g1: Tensor, g2: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return (a - x.mean(0)) @ g1.T, (b - y.mean(0)) @ g2.T

    def fit(pairs: int, matches: Match | None) -> tuple[Tensor, Tensor]:
        if matches is None:
            return svd_solution(x[:pairs], y[:pairs], rank)
        rows = (matches.columns >= 0).nonzero().squeeze(1)
        return svd_solution(
            torch.cat([x[:pairs], more_x[rows]]),
            torch.cat([y[:pairs], more_y[matches.columns[rows]]]),
            rank,
            weights=torch.cat([x.new_ones(pairs), matches.confidence[rows].to(x.dtype)]),
        )

    def held_out(maps: tuple[Tensor, Tensor]) -> Tensor:
        a, b = (normalize(t, dim=1) for t in scored(*maps, x[fitted:], y[fitted:]))
        logits, own = a @ b.T / temperature, torch.arange(held, device=a.device)
        return (cross_entropy(logits, own, reduction="none") + cross_entropy(logits.T, own, reduction="none")) / 2

    maps, matches, kept = fit(fitted, None), list[Match](), 0
    losses = [held_out(maps)] if held else []
    for _ in range(rounds if len(more_x) and len(more_y) else 0):
        found = scored(*maps, more_x, more_y)
        matches.append(match(found, how=how, temperature=temperature, normalize=True))
        maps = fit(fitted, matches[-1])
        if held:
            losses.append(held_out(maps))
            worse = losses[-1] - losses[-2]
            if worse.mean() > worse.std() / held**0.5:
                break
        kept += 1
    return UnpairedFit(
        *fit(len(x), matches[kept - 1] if kept else None),
        tuple(matches),
        kept,
        tuple(float(loss.mean()) for loss in losses),
    )


def match_precision(columns: Int[Tensor, " n"], truth: Int[Tensor, " n"]) -> float:
    """Return the share of the rows with a column that have the right one; NaN where none has a column.

    Args:
        columns: column of every row, -1 for none, as `match` gives them.
        truth: the right column of every row, -1 where there is none.

    Raises:
        ValueError: for different lengths.

    Example:
        >>> match_precision(torch.tensor([0, 2, -1]), torch.tensor([0, 1, 2]))
        0.5
    """
    if columns.shape != truth.shape:
        raise ValueError(f"expected a true column for each of {len(columns)} rows, found {tuple(truth.shape)}.")
    taken = columns >= 0
    return float((columns == truth)[taken].double().mean())
