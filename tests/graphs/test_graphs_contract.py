"""Graphs print, densify, list neighbours, refuse what they cannot mean and keep linear memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mask_cases
import pytest
import torch
from graph_cases import GRAPHS

from kinfolk.graphs import (
    ClassGraph,
    DenseGraph,
    KernelGraph,
    LabelGraph,
    MixtureGraph,
    PairGraph,
    SimilarityGraph,
    SparseGraph,
)

EVERY_GRAPH = pytest.mark.parametrize("name", GRAPHS)


def build(name: str, n: int = 6, m: int = 7) -> SimilarityGraph:
    return GRAPHS[name](n, m, torch.Generator().manual_seed(4)).graph


@EVERY_GRAPH
def test_repr_names_kind_and_shape(name: str) -> None:
    graph = build(name)
    assert repr(graph).startswith(type(graph).__name__)
    assert "6" in repr(graph)
    assert "7" in repr(graph)


@EVERY_GRAPH
def test_dense_form_has_the_shape_and_no_negative_weights(name: str) -> None:
    weights = build(name).to_dense()
    assert weights.shape == (6, 7)
    assert (weights >= 0).all()


@EVERY_GRAPH
def test_dense_form_is_normalised_to_the_target(name: str) -> None:
    graph = build(name)
    again = DenseGraph(graph.to_dense()).row_normalised()
    assert torch.allclose(again.to_dense().double(), graph.row_normalised().to_dense().double(), atol=1e-6)
    assert torch.equal(again.has_target, graph.row_normalised().has_target)


@EVERY_GRAPH
def test_neighbours_are_the_largest_weights(name: str) -> None:
    graph = build(name)
    dense = graph.to_dense()
    for i in range(6):
        indices, weights = graph.neighbours(i, 3)
        assert len(indices) == len(weights) == min(3, int((dense[i] > 0).sum()))
        assert torch.allclose(dense[i, indices], weights)
        assert weights.tolist() == sorted(weights.tolist(), reverse=True)
        rest = torch.ones(7, dtype=torch.bool)
        rest[indices] = False
        assert not len(indices) or not rest.any() or dense[i, rest].max() <= weights.min() + 1e-9


@pytest.mark.parametrize("mask", ["exclude_self", "exclude", "plain bool"])
@EVERY_GRAPH
def test_neighbours_of_the_target_are_its_largest_weights(name: str, mask: str) -> None:
    built, _ = mask_cases.MASKS[mask](6, 7, torch.Generator().manual_seed(8))
    target = build(name).row_normalised(built)
    dense = target.to_dense()
    for i in range(6):
        indices, weights = target.neighbours(i, 7)
        assert len(indices) == int((dense[i] > 0).sum())
        assert torch.allclose(dense[i, indices], weights.to(dense), atol=1e-6)


def test_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        SimilarityGraph()


def test_label_graph_by_hand() -> None:
    graph = LabelGraph(torch.tensor([0, 0, -1, -1]), torch.tensor([1, 2, 1, -1]))
    expected = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert graph.to_dense().tolist() == expected
    assert graph.row_normalised().has_target.tolist() == [True, True, True, False]


def test_large_labels_and_ids_are_not_rounded() -> None:
    names = torch.tensor([2**24, 2**24 + 1])
    assert LabelGraph(names).to_dense().tolist() == [[1, 0], [0, 1]]
    assert LabelGraph(torch.tensor([-1, -1]), names).to_dense().tolist() == [[1, 0], [0, 1]]
    x = torch.eye(2)
    assert LabelGraph(names).attraction(x, x, scale=1.0).tolist() == [1, 1]


def test_mixture_by_hand() -> None:
    """Row 0 has both parts (1:3), row 1 only the second, row 2 none."""
    first = DenseGraph(torch.tensor([[2.0, 2.0], [0, 0], [0, 0]]))
    second = DenseGraph(torch.tensor([[0.0, 5.0], [1, 0], [0, 0]]))
    target = MixtureGraph([first, second], [1.0, 3.0]).row_normalised()
    assert torch.allclose(target.to_dense(), torch.tensor([[0.125, 0.875], [1, 0], [0, 0]]).double(), atol=1e-12)
    assert target.has_target.tolist() == [True, True, False]


def test_mixture_renormalises_over_what_a_mask_leaves() -> None:
    first, second = DenseGraph(torch.tensor([[1.0, 1.0, 0.0]])), DenseGraph(torch.tensor([[0.0, 1.0, 3.0]]))
    keep = torch.tensor([[True, False, True]])
    target = MixtureGraph([first, second], [1.0, 1.0]).row_normalised(keep).to_dense()
    assert torch.allclose(target, torch.tensor([[0.5, 0, 0.5]]).double(), atol=1e-12)


def test_plain_tensor_is_a_part_of_a_mixture() -> None:
    mixed = MixtureGraph([torch.eye(2), PairGraph(2)], [1.0, 1.0])
    assert mixed.row_normalised().to_dense().tolist() == [[1, 0], [0, 1]]


def test_sparse_graph_by_sample_id() -> None:
    """Edges name ids; an id that the columns hold twice is reached twice, one that they do not hold drops out."""
    by_id = SparseGraph(torch.tensor([0, 2, 3]), torch.tensor([40, 7, 9]), torch.tensor([1.0, 2.0, 5.0]))
    found = by_id.resolve(torch.tensor([7, 40, 8, 40, -1]))
    assert found.to_dense().tolist() == [[2, 1, 0, 1, 0], [0, 0, 0, 0, 0]]
    assert found.row_normalised().has_target.tolist() == [True, False]
    assert "id" in repr(by_id)
    with pytest.raises(ValueError, match="ids"):
        by_id.row_normalised()


def test_parallel_edges_add_up() -> None:
    graph = SparseGraph(torch.tensor([0, 3]), torch.tensor([1, 0, 1]), torch.tensor([1.0, 2.0, 3.0]), m=2)
    assert graph.to_dense().tolist() == [[2, 4]]
    pull = graph.attraction(torch.ones(1, 1), torch.tensor([[3.0], [6.0]]), scale=1.0)
    assert pull.item() == pytest.approx(5.0)


def test_mixture_resolves_its_parts() -> None:
    by_id = SparseGraph(torch.tensor([0, 1, 2]), torch.tensor([8, 7]))
    mixed = MixtureGraph([by_id, PairGraph(2)], [1.0, 1.0]).resolve(torch.tensor([7, 8]))
    assert mixed.row_normalised().to_dense().tolist() == [[0.5, 0.5], [0.5, 0.5]]


BAD_VALUES = {
    "label below -1": lambda: LabelGraph(torch.tensor([0, -2])),
    "class label beyond the table": lambda: ClassGraph(torch.tensor([0, 3]), torch.ones(3, 3)),
    "class table not square": lambda: ClassGraph(torch.tensor([0, 1]), torch.ones(2, 3)),
    "class table negative": lambda: ClassGraph(torch.tensor([0, 1]), -torch.ones(2, 2)),
    "class temperature": lambda: ClassGraph.from_similarities(torch.tensor([0, 1]), torch.eye(2), 0.0),
    "dense negative": lambda: DenseGraph(torch.tensor([[1.0, -1.0]])),
    "dense NaN": lambda: DenseGraph(torch.tensor([[1.0, torch.nan]])),
    "dense vector": lambda: DenseGraph(torch.ones(3)),
    "kernel temperature": lambda: KernelGraph(torch.eye(2), temperature=-1.0),
    "kernel widths": lambda: KernelGraph(torch.eye(2), torch.eye(3), temperature=1.0),
    "sparse column beyond m": lambda: SparseGraph(torch.tensor([0, 1]), torch.tensor([3]), m=3),
    "sparse crow decreasing": lambda: SparseGraph(torch.tensor([0, 2, 1]), torch.tensor([0, 1]), m=3),
    "sparse crow end": lambda: SparseGraph(torch.tensor([0, 1]), torch.tensor([0, 1]), m=3),
    "sparse weights negative": lambda: SparseGraph(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([-1.0]), m=3),
    "sparse weights length": lambda: SparseGraph(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(2), m=3),
    "mixture shapes": lambda: MixtureGraph([PairGraph(2), PairGraph(3)], [1.0, 1.0]).shape,
    "mixture weights": lambda: MixtureGraph([PairGraph(2), PairGraph(2)], [1.0]),
    "mixture negative": lambda: MixtureGraph([PairGraph(2), PairGraph(2)], [1.0, -1.0]),
    "mixture empty": lambda: MixtureGraph([], []),
    "ids of another length": lambda: LabelGraph(torch.tensor([0, 1]), torch.tensor([0, 1, 2])),
    "ids on one side": lambda: LabelGraph(torch.tensor([0]), torch.tensor([0]), key_labels=torch.tensor([0, 1])),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"\w{3}.*"):
        BAD_VALUES[name]()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_labels_and_ids_are_integers(dtype: torch.dtype) -> None:
    bad, good = torch.zeros(2, dtype=dtype), torch.tensor([0, 1])
    for make in (lambda: LabelGraph(bad), lambda: LabelGraph(good, bad), lambda: ClassGraph(bad, torch.eye(2))):
        with pytest.raises(TypeError, match="int"):
            make()


@EVERY_GRAPH
def test_embeddings_of_another_size_name_both(name: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)6.*5|5.*6"):
        build(name).attraction(torch.randn(5, 3), torch.randn(7, 3), scale=1.0)


@EVERY_GRAPH
def test_mask_of_another_size_names_both(name: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)7.*5|5.*7"):
        build(name).attraction(torch.randn(6, 3), torch.randn(7, 3), scale=1.0, mask=torch.ones(6, 5, dtype=torch.bool))


# 400 MB for 16,384 rows; a linear method gets the same allowance per row at other sizes.
BYTES_PER_ROW = 400e6 / 16_384

SCRIPT = r"""
import json, os, re, sys, torch
from kinfolk import graphs
from kinfolk.ops import PairMask
torch.set_num_threads(1)
def peak():  # of this process alone: getrusage would also count the one that started it
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1))
def step(kind, impl, n):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 64, generator=generator).requires_grad_()
    graph = {
        "kernel": lambda: graphs.KernelGraph(torch.randn(n, 16, generator=generator), temperature=0.1),
        "label": lambda: graphs.LabelGraph(torch.arange(n) % 10, torch.arange(n) // 2),
    }[kind]()
    both = graph.logsumexp_and_attraction(x, x, scale=10.0, mask=PairMask.exclude_self(n), normalize=True, impl=impl)
    (both[0] - both[1]).sum().backward()
step("label", "auto", 64)
for kind, impl, rows in json.loads(sys.argv[1]):  # one interpreter, whose copy (a fork) measures each
    if not (child := os.fork()):
        step(kind, impl, 64)
        before = peak()
        step(kind, impl, rows)
        print((peak() - before) * 1024, flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{kind}, {impl} failed")
"""


def growth(calls: list[tuple[str, str, int]]) -> list[int]:
    """Bytes by which the peak resident size grows over a forward and a backward pass: kind, implementation, rows."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc, which this system has not")
    command = [sys.executable, "-c", SCRIPT, json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.splitlines()]


def test_soft_targets_take_linear_memory_and_the_dense_form_is_caught() -> None:
    """One matrix of 6144 x 6144 alone would be 151 MB."""
    kernel, label, dense = growth(
        [("kernel", "chunked", 6144), ("label", "chunked", 6144), ("kernel", "reference", 3072)]
    )
    assert max(kernel, label) < BYTES_PER_ROW * 6144
    assert not dense < BYTES_PER_ROW * 3072
