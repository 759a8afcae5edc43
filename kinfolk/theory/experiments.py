"""The statements about two modalities as experiments: each draws models, measures, and returns a row for every draw."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kinfolk.theory.descent import descend
from kinfolk.theory.spiked import SpikedModel
from kinfolk.theory.subspaces import masked_solution, sin_theta, svd_solution
from kinfolk.theory.unpaired import fit_unpaired, match_precision

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.theory.matching import How

Row: TypeAlias = dict[str, Any]
"""One draw: settings and what was measured, by name."""

FORMS: dict[str, dict[str, Any]] = {
    "linear": {"phi": "identity", "psi": "identity", "epsilon": 0.0, "rho": 1.0},
    "CLIP, rho 1": {"rho": 1.0},
    "CLIP, rho 0.1": {"rho": 0.1},
}
"""Forms of the loss whose descent is followed: temperature 1, and the penalty's strength."""


def subspace_errors(
    *,
    sizes: Sequence[int] = (300, 1000, 3000, 5000),
    clean: Sequence[float] = (1.0, 0.5, 0.2),
    draws: int = 20,
    seed: int = 0,
    model: SpikedModel | None = None,
) -> list[Row]:
    """How far the closed-form solution is from the truth, against the number of pairs and the share of clean ones.

    Args:
        sizes: numbers of pairs n.
        clean: shares of clean pairs eta.
        draws: models drawn for each.
        seed: of the first.
        model: what is drawn; by default `SpikedModel()`.

    Returns:
        Rows with `eta`, `n`, `draw` and `error`, the sin-theta distance of the first modality.

    Example:
        >>> [sorted(row) for row in subspace_errors(sizes=(50,), clean=(1.0,), draws=1)]
        [['draw', 'error', 'eta', 'n']]
    """
    model = model or SpikedModel()
    rows = []
    for eta in clean:
        for n in sizes:
            for draw in range(draws):
                pairs = model.draw(n, eta=eta, seed=seed + draw)
                g1, _ = svd_solution(pairs.x, pairs.y, model.rank)
                rows.append({"eta": eta, "n": n, "draw": draw, "error": float(sin_theta(g1.T, pairs.left))})
    return rows


def descent_steps(
    *,
    n: int = 500,
    clean: Sequence[float] = (1.0, 0.5),
    steps: int = 150,
    draws: int = 3,
    seed: int = 0,
    model: SpikedModel | None = None,
) -> list[Row]:
    """What a step of each form of the loss (`FORMS`) does: the way it goes, and where it leads.

    Returns:
        Rows with `eta`, `form`, `draw`, `step`, and of the step: `alignment` with the way to the singular value
        decomposition of its contrastive cross-covariance, `distance` to that subspace afterwards; and for the whole
        descent `error` against the truth and `svd_error`, that of the closed form on the same pairs.

    Example:
        >>> len(descent_steps(n=40, clean=(1.0,), steps=2, draws=1)) == 2 * len(FORMS)
        True
    """
    model = model or SpikedModel()
    rows = []
    for eta in clean:
        for draw in range(draws):
            pairs = model.draw(n, eta=eta, seed=seed + draw)
            svd_error = float(sin_theta(svd_solution(pairs.x, pairs.y, model.rank)[0].T, pairs.left))
            for form, settings in FORMS.items():
                found = descend(pairs.x, pairs.y, model.rank, steps=steps, learning_rate=0.2, seed=draw, **settings)
                error = float(sin_theta(found.g1.T, pairs.left))
                rows += [
                    {
                        "eta": eta,
                        "form": form,
                        "draw": draw,
                        "step": step + 1,
                        "alignment": float(found.alignment[step]),
                        "distance": float(found.distance[step]),
                        "error": error,
                        "svd_error": svd_error,
                    }
                    for step in range(steps)
                ]
    return rows


def mismatch_errors(
    *,
    n: int = 1000,
    clean: Sequence[float] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1),
    private: Sequence[int] = (0, 10),
    draws: int = 20,
    seed: int = 0,
) -> list[Row]:
    """Two modalities, some pairs of them wrong, against one modality alone, which has no pairs to get wrong.

    One modality is learnt from by contrast of masked views (`masked_solution`) and by principal components. Without
    private codes nothing but the shared code makes coordinates vary together; with them each modality has directions
    of its own that vary more than the shared ones.

    Returns:
        Rows with `private`, `eta`, `draw`, `learner` (``"pairs"``, ``"masked views"``, ``"principal components"``) and
        `error`, the sin-theta distance of the first modality.

    Example:
        >>> {row["learner"] for row in mismatch_errors(n=60, clean=(1.0,), private=(0,), draws=1)} == {
        ...     "pairs", "masked views", "principal components"}
        True
    """
    rows = []
    for kind in private:
        model = SpikedModel(private=kind)
        for eta in clean:
            for draw in range(draws):
                pairs = model.draw(n, eta=eta, seed=seed + draw)
                maps = {
                    "pairs": svd_solution(pairs.x, pairs.y, model.rank)[0],
                    "masked views": masked_solution(pairs.x, model.rank),
                    "principal components": svd_solution(pairs.x, pairs.x, model.rank)[0],
                }
                rows += [
                    {
                        "private": kind,
                        "eta": eta,
                        "draw": draw,
                        "learner": learner,
                        "error": float(sin_theta(g1.T, pairs.left)),
                    }
                    for learner, g1 in maps.items()
                ]
    return rows


def unpaired_errors(
    *,
    pairs: int = 300,
    unpaired: Sequence[int] = (500, 1000, 2000),
    noise: Sequence[float] = (0.1, 0.3, 1.0),
    private: Sequence[int] = (0, 10),
    how: Sequence[How] = ("argmax", "mutual", "assignment"),
    test: int = 500,
    rounds: int = 3,
    draws: int = 5,
    seed: int = 0,
) -> list[Row]:
    """What rows without partners add to a few pairs, between the pairs alone and an oracle that knows all partners.

    One modality of the unpaired rows is shuffled; a matching sees scores only.

    Args:
        pairs: how many pairs.
        unpaired: how many rows of each modality are unpaired.
        noise: standard deviations of the noise.
        private: dimensions of what each modality has for itself, twice as strong as what they share.
        how: matchings, as in `kinfolk.theory.match`.
        test: further pairs on which retrieval is measured.
        rounds: of matching and fitting.
        draws: models drawn for each.
        seed: of the first.

    Returns:
        Rows with `private`, `noise`, `unpaired`, `draw`, `learner` (``"pairs"``, a matching, a matching with ``",
        checked"`` where held-out pairs decide how many rounds are kept, ``"oracle"``), `error` (sin theta of the first
        modality) and `top1`, how often a test row's own partner is nearest; for matchings also `precision` of the last
        round's matches, the share `matched` that got one, and how many rounds were `kept`.

    Example:
        >>> few = {"pairs": 40, "unpaired": (20,), "noise": (0.1,), "private": (0,), "test": 20, "draws": 1}
        >>> [row["learner"] for row in unpaired_errors(**few, how=("mutual",))]
        ['pairs', 'mutual', 'mutual, checked', 'oracle']
    """
    rows: list[Row] = []
    for own, level, more, draw in itertools.product(private, noise, unpaired, range(draws)):
        model = SpikedModel(noise=level, private=own)
        data = model.draw(pairs + more + test, seed=seed + draw)
        x, more_x, test_x = data.x.split([pairs, more, test])
        y, more_y, test_y = data.y.split([pairs, more, test])
        order = torch.randperm(more, generator=torch.Generator().manual_seed(seed + draw))
        setting = {"private": own, "noise": level, "unpaired": more, "draw": draw}
        test_rows = (test_x - x.mean(0), test_y - y.mean(0))
        rows.append(setting | _of_maps("pairs", svd_solution(x, y, model.rank), data.left, test_rows))
        for kind, held_out in itertools.product(how, (0.0, 0.2)):
            fit = fit_unpaired(x, y, more_x, more_y[order], model.rank, how=kind, rounds=rounds, validation=held_out)
            columns = fit.matches[-1].columns
            found = {"precision": match_precision(columns, order.argsort()), "kept": fit.kept}
            found["matched"] = float((columns >= 0).double().mean())
            learner = f"{kind}, checked" if held_out else kind
            rows.append(setting | _of_maps(learner, (fit.g1, fit.g2), data.left, test_rows) | found)
        known = svd_solution(torch.cat([x, more_x]), torch.cat([y, more_y]), model.rank)
        rows.append(setting | _of_maps("oracle", known, data.left, test_rows))
    return rows


def summary(rows: Iterable[Row], by: Sequence[str], value: str) -> dict[tuple, tuple[float, float, int]]:
    """Mean, standard deviation and number of a value over the rows of each setting that have it.

    The deviation is NaN for one row.

    Example:
        >>> summary([{"n": 3, "error": 1.0}, {"n": 3, "error": 3.0}], by=["n"], value="error")
        {(3,): (2.0, 1.4142135623730951, 2)}
    """
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        if value in row:
            groups.setdefault(tuple(row[name] for name in by), []).append(row[value])
    return {
        setting: (statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else math.nan, len(found))
        for setting, found in groups.items()
    }


def _of_maps(
    learner: str, maps: tuple[Tensor, Tensor], truth: Float[Tensor, "a r"], test: tuple[Tensor, Tensor]
) -> Row:
    """The distance of the first map's subspace from the truth, and how often a test row's partner is nearest to it."""
    a, b = (normalize(rows @ g.T, dim=1) for rows, g in zip(test, maps, strict=True))
    top1 = ((a @ b.T).argmax(1) == torch.arange(len(a))).double().mean()
    return {"learner": learner, "error": float(sin_theta(maps[0].T, truth)), "top1": float(top1)}
