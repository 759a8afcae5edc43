"""Every public loss on 1, 2 and 4 ranks: values and gradients are those of one process on the joined batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rank_cases import CASES, LOCAL, PARTITIONS, RING, cases, classes_without_a_case, ways
from rank_table import Row, in_joined_order, joined, local_mean, table
from rank_worker import key

from kinfolk import losses

Answers = Callable[[int], list[dict[str, Any]]]

EXACT = 1e-10
GRID = [
    pytest.param(
        world,
        name,
        partition,
        gather,
        id=f"{world}ranks-{name}-{partition}-{'ring' if gather == 'ring' else 'gathered'}",
    )
    for world, partitions in PARTITIONS.items()
    for name in cases(world)
    for partition in partitions
    for gather in ways(name)
]
WORLDS = pytest.mark.parametrize("world", list(PARTITIONS), ids=lambda world: f"{world}ranks")
EVERY = pytest.mark.parametrize("name", list(CASES))


NUMBERED = ("GraphContrastive dense", "GraphContrastive dense, masked", "GraphContrastive sparse numbered")


def same(got: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(got, expected, atol=EXACT, rtol=0.0, msg=lambda text: f"{what}: {text}")


def test_every_loss_has_a_row_in_the_table() -> None:
    assert classes_without_a_case(losses, CASES) == set()


def test_four_ranks_run_every_loss_and_every_ring() -> None:
    assert classes_without_a_case(losses, cases(4)) == set()
    assert set(RING) <= cases(4).keys() < cases(2).keys()


def test_missing_row_is_noticed() -> None:
    fewer = {name: case for name, case in CASES.items() if case.build is not losses.CLIPLoss}
    assert classes_without_a_case(losses, fewer) == {"CLIPLoss"}


def test_the_batch_has_what_makes_ranks_unequal() -> None:
    """Anchors, zeros and duplicates are spread unevenly, so that a mean of means or a local check would show."""
    each = joined("SupCon out, one view")["none"]
    for world, partitions in PARTITIONS.items():
        for sizes in partitions.values():
            assert world == 1 or len({int((p != 0).sum()) for p in each.split(sizes)}) > 1
    assert joined("NTXent, ids")["mean"] != joined("NTXent")["mean"]
    assert joined("SupCon out, no anchor")["mean"] == 0
    assert not joined("SupCon out, no anchor")["gradient"].any()


@pytest.mark.parametrize(("world", "name", "partition", "gather"), GRID)
def test_loss_and_gradient_are_those_of_one_process(
    world: int, name: str, partition: str, gather: Any, answers: Answers
) -> None:
    found = [ranks[key(name, partition, gather)] for ranks in answers(world)]
    same(torch.stack([f["mean"] for f in found]).mean(), joined(name)["mean"], "mean")
    for f in found:
        same(f["gradient"], joined(name)["gradient"], "DDP's gradient")
    row = Row.of(name, partition, gather, found[0])
    assert abs(row.ratio - 1) < EXACT
    assert abs(row.cosine - 1) < EXACT


@pytest.mark.parametrize("factor", [0.5, 1 + 1e-8, float("nan")])
def test_a_gradient_of_another_size_is_noticed(factor: float, answers: Answers) -> None:
    """A factor 1/W has cosine 1 and hides behind Adam; a battery that looked at directions only would pass it."""
    found = answers(1)[0][key("NTXent", "equal", True)]
    wrong = {**found, "gradient": found["gradient"] * factor}
    with pytest.raises(AssertionError, match="planted"):
        same(wrong["gradient"], joined("NTXent")["gradient"], "planted")
    assert not abs(Row.of("NTXent", "equal", True, wrong).ratio - 1) < EXACT


@pytest.mark.parametrize(
    ("world", "name"),
    [pytest.param(world, name, id=f"{world}ranks-{name}") for world in PARTITIONS for name in cases(world)],
)
def test_other_reductions_and_a_step_of_sgd(world: int, name: str, answers: Answers) -> None:
    partition, expected = list(PARTITIONS[world])[-1], joined(name)
    for gather in ways(name):
        found = [ranks[key(name, partition, gather)] for ranks in answers(world)]
        same(torch.stack([f["sum"] for f in found]).mean(), expected["sum"], "sum")
        if not CASES[name].pooled:
            same(in_joined_order([f["none"] for f in found], CASES[name].views), expected["none"], "none")
        for f in found:
            same(f["gradient of sum"], expected["gradient of sum"], "gradient of the sum")
            same(f["stepped"], expected["stepped"], "parameters after a step")


@EVERY
def test_without_gathering_every_rank_is_on_its_own(name: str, answers: Answers) -> None:
    found = [ranks[key(name, "local", False)] for ranks in answers(LOCAL[0])]
    if name in NUMBERED:  # these name the keys of all ranks
        assert all("graph" in f["error"] for f in found)
        return
    same(torch.stack([f["mean"] for f in found]).mean(), local_mean(name)["mean"], "mean")
    for f in found:
        same(f["gradient"], local_mean(name)["gradient"], "gradient")


@WORLDS
def test_fsdp_takes_the_same_step(world: int, answers: Answers) -> None:
    for ranks in answers(world):
        assert len(ranks["fsdp"]) > 2
        for name, parameters in ranks["fsdp"].items():
            same(parameters, joined(name)["stepped"], name)


def test_ring_is_refused_where_a_loss_needs_all_keys_at_once() -> None:
    with_ring = {CASES[name].build for name in RING}
    for build in {case.build for case in CASES.values()} - with_ring:
        required = [p for p in inspect.signature(build).parameters.values() if p.default is inspect.Parameter.empty]
        needed = {p.name: [3, 2] if p.name == "class_counts" else 2 for p in required}
        with pytest.raises(ValueError, match="gather=True"):
            build(**needed, gather="ring")
    x, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match="gather=True"):
        losses.SupConLoss(gather="ring")(x, labels, ids=torch.arange(4))


def test_the_table_has_a_line_per_loss_and_number_of_ranks(answers: Answers) -> None:
    text = table({1: answers(1)})
    assert text.count("\n") == 1 + sum(len(ways(name)) for name in CASES)
    assert "| NTXent | ring | 1 | 1.0000000000 | 1.0000000000 |" in text
