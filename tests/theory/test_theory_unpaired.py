"""Fits on pairs and matches: order of rows, gains, the check on held-out pairs, and bad input."""

from __future__ import annotations

import math

import pytest
import torch

from kinfolk.theory import SpikedModel, fit_unpaired, match_precision, sin_theta, svd_solution

HOW = ("argmax", "mutual", "assignment", "sinkhorn")


def drawn(more: int, *, pairs: int = 150, seed: int = 0, **settings: float) -> tuple:
    """Pairs, rows of both modalities without partners (the second shuffled), the right columns, and the truth."""
    data = SpikedModel(**{"dims": (20, 19), "rank": 5, **settings}).draw(pairs + more, seed=seed)
    order = torch.randperm(more, generator=torch.Generator().manual_seed(seed))
    rest = data.x[pairs:], data.y[pairs:][order]
    return data.x[:pairs], data.y[:pairs], *rest, order.argsort(), data.left


@pytest.mark.parametrize("how", HOW)
def test_unpaired_rows_halve_the_error_where_the_signal_is_strong(how: str) -> None:
    x, y, more_x, more_y, truth, left = drawn(900, noise=0.15)
    fit = fit_unpaired(x, y, more_x, more_y, 5, how=how)
    before = sin_theta(svd_solution(x, y, 5)[0].T, left)
    assert sin_theta(fit.g1.T, left) < 0.6 * before
    assert match_precision(fit.matches[0].columns, truth) > 0.5
    assert fit.kept >= 1


@pytest.mark.parametrize("how", HOW)
def test_the_order_of_unpaired_rows_does_not_enter(how: str) -> None:
    x, y, more_x, more_y, _, _ = drawn(60, noise=0.2)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(9))
    one, other = (fit_unpaired(x, y, more_x, rows, 5, how=how) for rows in (more_y, more_y[order]))
    torch.testing.assert_close(one.g1.T @ one.g2, other.g1.T @ other.g2, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(one.losses, other.losses)


def test_held_out_pairs_stop_rounds_that_forget_what_the_pairs_knew() -> None:
    """Private directions twice as strong as the shared ones: matches follow them, and the fit gets worse."""
    x, y, more_x, more_y, _, left = drawn(600, pairs=120, private=8, noise=0.3)
    pairs_alone = sin_theta(svd_solution(x, y, 5)[0].T, left)
    trusting, checked = (fit_unpaired(x, y, more_x, more_y, 5, how="argmax", validation=v) for v in (0.0, 0.2))
    assert sin_theta(trusting.g1.T, left) > pairs_alone + 0.2
    assert checked.kept == 0
    assert len(checked.matches) == 1
    assert checked.losses[1] > checked.losses[0] + 0.1
    torch.testing.assert_close(sin_theta(checked.g1.T, left), pairs_alone)
    assert (trusting.kept, trusting.losses) == (3, ())


@pytest.mark.parametrize(("more", "rounds"), [(0, 3), (40, 0)])
def test_without_rows_or_rounds_the_fit_is_that_of_the_pairs(more: int, rounds: int) -> None:
    x, y, more_x, more_y, _, _ = drawn(more)
    fit = fit_unpaired(x, y, more_x, more_y, 5, rounds=rounds)
    g1, g2 = svd_solution(x, y, 5)
    assert fit.matches == ()
    torch.testing.assert_close(fit.g1.T @ fit.g2, g1.T @ g2)


def test_modalities_may_have_different_numbers_of_unpaired_rows() -> None:
    x, y, more_x, more_y, _, _ = drawn(50)
    fit = fit_unpaired(x, y, more_x, more_y[:20], 5, how="assignment")
    assert int((fit.matches[0].columns >= 0).sum()) == 20


def test_weights_of_pairs_are_as_if_a_pair_stood_more_than_once() -> None:
    x, y, *_ = drawn(0, pairs=12)
    times = torch.tensor([1, 2, 3, 0, 1, 1, 2, 1, 1, 5, 1, 1])
    weighted = svd_solution(x, y, 3, weights=times.double())
    repeated = svd_solution(x.repeat_interleave(times, 0), y.repeat_interleave(times, 0), 3)
    torch.testing.assert_close(weighted[0].T @ weighted[1], repeated[0].T @ repeated[1])


@pytest.mark.parametrize("weights", [[1.0] * 11, [0.0] * 12, [-1.0] + [1.0] * 11])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    x, y, *_ = drawn(0, pairs=12)
    with pytest.raises(ValueError, match="a weight of at least 0 for each of 12 pairs"):
        svd_solution(x, y, 3, weights=torch.tensor(weights))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": -1}, "rounds must be at least 0"),
        ({"how": "best"}, "how must be one of"),
        ({"validation": 0.001}, "holds out 0 of 150 pairs"),
        ({"validation": 1.0}, "holds out 150 of 150 pairs"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, message: str) -> None:
    x, y, more_x, more_y, _, _ = drawn(10)
    with pytest.raises(ValueError, match=message):
        fit_unpaired(x, y, more_x, more_y, 5, **settings)


def test_rows_of_another_width_are_refused() -> None:
    x, y, more_x, *_ = drawn(10)
    with pytest.raises(ValueError, match=r"expected unpaired rows \[m, 20\] and \[k, 19\]"):
        fit_unpaired(x, y, more_x, more_x, 5)


def test_the_precision_of_no_match_is_not_a_number_and_lengths_must_agree() -> None:
    assert math.isnan(match_precision(torch.tensor([-1, -1]), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="a true column for each of 2 rows"):
        match_precision(torch.tensor([0, 1]), torch.tensor([0]))
