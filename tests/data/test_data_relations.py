"""Relations: a batch's graph against its definition, tables from every source, the temperature for a perplexity."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinfolk.data import (
    ArraySource,
    ClassTable,
    ClassTableConfig,
    DigitsConfig,
    SideEmbeddings,
    SideEmbeddingsConfig,
    temperature_for_perplexity,
)

IDS = torch.tensor([40, 10, 30, 20, 50])
LABELS = torch.tensor([0, 1, 2, 1, -1])
TABLE = torch.tensor([[1.0, 0.4, 0.1], [0.3, 1.0, 0.0], [0.2, 0.5, 0.9]])


def vectors(count: int, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def target_by_loops(similarity: list[list[float]], temperature: float) -> Tensor:
    """Softmax over the other rows; a row of NaN relates to nothing."""
    rows = len(similarity)
    target = torch.zeros(rows, rows, dtype=torch.float64)
    for i in range(rows):
        weights = [
            0.0 if j == i or math.isnan(similarity[i][j]) else math.exp(similarity[i][j] / temperature)
            for j in range(rows)
        ]
        if sum(weights) > 0:
            target[i] = torch.tensor(weights) / sum(weights)
    return target


def others(rows: int) -> Tensor:
    return ~torch.eye(rows, dtype=torch.bool)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_the_class_tables_graph_is_view_major(views: int) -> None:
    relation = ClassTable(IDS, LABELS, TABLE, temperature=0.3)
    batch = torch.tensor([50, 20, 40, 10])
    classes = [-1, 1, 0, 1] * views
    similarity = [[math.nan if -1 in (a, b) else float(TABLE[a, b]) for b in classes] for a in classes]
    found = relation.for_batch(batch, views).row_normalised(others(len(classes))).to_dense()
    torch.testing.assert_close(found.double(), target_by_loops(similarity, 0.3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("views", [1, 2])
def test_side_embeddings_graph_is_the_softmax_of_cosines(views: int) -> None:
    table = vectors(5) * torch.tensor([1.0, 5.0, 0.2, 3.0, 2.0], dtype=torch.float64)[:, None]
    relation = SideEmbeddings(IDS, table, temperature=0.2)
    batch = torch.tensor([20, 40, 50])
    rows = torch.nn.functional.normalize(table[[3, 0, 4]], dim=1).repeat(views, 1)
    expected = target_by_loops((rows @ rows.T).tolist(), 0.2)
    found = relation.for_batch(batch, views).row_normalised(others(3 * views)).to_dense()
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["table", "side"])
def test_the_graph_permutes_with_the_batch(kind: str) -> None:
    relation = (
        ClassTable(IDS, LABELS, TABLE, temperature=0.3)
        if kind == "table"
        else SideEmbeddings(IDS, vectors(5), temperature=0.3)
    )
    order = torch.tensor([2, 0, 4, 1, 3])
    plain, permuted = (relation.for_batch(ids, 1).to_dense() for ids in (IDS, IDS[order]))
    torch.testing.assert_close(permuted, plain[order][:, order])


def test_the_summary_is_that_of_the_dense_target() -> None:
    relation = ClassTable(IDS, LABELS, TABLE, temperature=0.3)
    batch, views = torch.tensor([40, 10, 20, 30, 50]), 2
    target = relation.for_batch(batch, views).row_normalised(others(10)).to_dense().double()
    anchors = [i for i in range(10) if i not in (4, 9)]  # both rows of the unlabelled sample have no target
    classes = torch.tensor([0, 1, 1, 2, -1] * 2)
    perplexity = [math.exp(-sum(float(p) * math.log(p) for p in target[i] if p > 0)) for i in anchors]
    found = relation.summary(batch, views)
    assert found["temperature"] == 0.3
    assert found["perplexity"] == pytest.approx(np.mean(perplexity), rel=1e-5)
    own_class = [float(target[i][classes == classes[i]].sum()) for i in anchors]
    assert found["own_class_mass"] == pytest.approx(np.mean(own_class), rel=1e-5)
    own_sample = [float(target[i][(i + 5) % 10]) for i in anchors]
    assert found["own_sample_mass"] == pytest.approx(np.mean(own_sample), rel=1e-5)


def test_known_summaries() -> None:
    """One-hot relations: the other view alone; a flat table: everyone else."""
    sharp = SideEmbeddings(torch.arange(8), torch.eye(8), temperature=1e-3).summary(torch.arange(8), 2)
    assert sharp == pytest.approx({"temperature": 1e-3, "perplexity": 1.0, "own_sample_mass": 1.0}, abs=1e-3)
    flat = ClassTable(torch.arange(8), torch.arange(8) % 2, torch.zeros(2, 2), temperature=0.1)
    found = flat.summary(torch.arange(8), 2)
    assert found == pytest.approx(
        {"temperature": 0.1, "perplexity": 15, "own_sample_mass": 1 / 15, "own_class_mass": 7 / 15}, abs=1e-5
    )
    unlabelled = ClassTable(torch.arange(3), torch.tensor([-1, -1, -1]), torch.zeros(2, 2), temperature=0.1)
    assert unlabelled.summary(torch.arange(3), 1)["perplexity"] == 0


def test_the_summary_of_a_large_batch_is_that_of_its_blocks() -> None:
    ids = torch.arange(600)
    relation = SideEmbeddings(ids, vectors(600), temperature=0.2)  # 1,200 rows are more than one block
    target = relation.for_batch(ids, 2).row_normalised(others(1200)).to_dense().double()
    entropy = -(target * target.clamp(min=1e-300).log()).sum(1)
    assert relation.summary(ids, 2)["perplexity"] == pytest.approx(float(entropy.exp().mean()), rel=1e-4)


@pytest.mark.parametrize("perplexity", [3.0, 12.0, 40.0])
def test_the_temperature_for_a_perplexity(perplexity: float) -> None:
    ids = torch.arange(64)
    relation = SideEmbeddings(ids, vectors(64), temperature=0.1)
    temperature = temperature_for_perplexity(relation, ids, 2, perplexity=perplexity)
    assert relation.with_temperature(temperature).summary(ids, 2)["perplexity"] == pytest.approx(perplexity, rel=1e-4)
    assert relation.temperature == 0.1  # it stays what it was


def test_an_impossible_perplexity_says_what_is_possible() -> None:
    relation = ClassTable(torch.arange(20), torch.arange(20) % 2, torch.eye(2), temperature=0.1)
    with pytest.raises(ValueError, match="20 samples with 1 views give 9 to 19"):
        temperature_for_perplexity(relation, torch.arange(20), 1, perplexity=5)


def test_groups_give_their_table() -> None:
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    source = ArraySource(images, torch.tensor([0, 1, 2]), class_names=["cat", "dog", "car"])
    relation = ClassTableConfig(groups=(("cat", "dog"),), within=0.25, temperature=0.2).build(source)
    assert relation.similarities.tolist() == [[1, 0.25, 0], [0.25, 1, 0], [0, 0, 1]]
    assert relation.temperature == 0.2
    with pytest.raises(ValueError, match=r"do not exist: \['cow'\]; the classes are \['cat', 'dog', 'car'\]"):
        ClassTableConfig(groups=(("cat", "cow"),)).build(source)
    with pytest.raises(ValueError, match="the source has none"):
        ClassTableConfig(groups=(("cat",),)).build(ArraySource(images, torch.tensor([0, 1, 2])))
    with pytest.raises(ValueError, match="needs labels"):
        ClassTableConfig().build(ArraySource(images))
    with pytest.raises(ValueError, match="not both"):
        ClassTableConfig(groups=(("cat",),), path="table.npy")


def test_tables_are_read_from_files(tmp_path: Path) -> None:
    source = ArraySource(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    np.save(tmp_path / "table.npy", TABLE.numpy())
    np.savetxt(tmp_path / "table.csv", TABLE.numpy(), delimiter=",")
    for name in ("table.npy", "table.csv"):
        table = ClassTableConfig(path=str(tmp_path / name)).build(source).similarities
        torch.testing.assert_close(table, TABLE)
    np.save(tmp_path / "small.npy", np.eye(2))
    (tmp_path / "words.csv").write_text("cat,dog\n1,2\n")
    for name, message in (
        ("small.npy", r"one row and column per class, \(3, 3\); found \(2, 2\)"),
        ("words.csv", "numbers only"),
        ("table.txt", ".npy or .csv file"),
    ):
        with pytest.raises(ValueError, match=message):
            ClassTableConfig(path=str(tmp_path / name)).build(source)


def test_the_table_from_images_is_the_correlation_of_class_means() -> None:
    source = DigitsConfig().load().train
    images = source.fetch(torch.arange(len(source)))["images"].flatten(1).double().numpy()
    means = np.stack([images[source.labels.numpy() == c].mean(0) for c in range(10)])
    expected = np.corrcoef(means - means.mean(0))
    found = ClassTableConfig().build(source).similarities
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_classes_without_images_correlate_with_none() -> None:
    images = torch.randint(0, 255, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source = ArraySource(images, torch.tensor([0, 2, 2, -1]), class_names=["a", "b", "c"])
    table = ClassTableConfig().build(source).similarities
    assert table[1].tolist() == [0, 1, 0]
    assert bool(table.isfinite().all())


def test_side_embeddings_come_from_the_source_or_a_file(tmp_path: Path) -> None:
    table = vectors(5).float()
    images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    source = ArraySource(images, LABELS, text_embedding=table)
    part = source.subset(torch.tensor([4, 2]))  # ids 4 and 2, as a hold-out leaves them
    np.save(tmp_path / "rows.npy", table.numpy())
    np.savez(tmp_path / "named.npz", embeddings=table.numpy()[[2, 4]], ids=np.array([2, 4]))
    for path in (None, str(tmp_path / "rows.npy"), str(tmp_path / "named.npz")):
        relation = SideEmbeddingsConfig(path, temperature=0.3).build(part)
        torch.testing.assert_close(relation.embeddings, table[[4, 2]])
        assert "own_class_mass" in relation.summary(torch.tensor([2, 4]), 2)


def test_side_embeddings_that_are_missing_are_named(tmp_path: Path) -> None:
    source = ArraySource(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), ids=torch.tensor([0, 1, 7]))
    with pytest.raises(ValueError, match="has no text_embedding"):
        SideEmbeddingsConfig().build(source)
    np.save(tmp_path / "few.npy", np.zeros((2, 4)))
    np.save(tmp_path / "flat.npy", np.zeros(9))
    np.savez(tmp_path / "wrong.npz", vectors=np.zeros((2, 4)))
    (tmp_path / "broken.npy").write_text("x")
    for name, message in (
        ("few.npy", r"2 rows and none for 1 samples, such as ids \[7\]"),
        ("flat.npy", "one row per sample"),
        ("wrong.npz", "must hold `embeddings`"),
        ("broken.npy", "not a readable"),
    ):
        with pytest.raises(ValueError, match=message):
            SideEmbeddingsConfig(str(tmp_path / name)).build(source)


def test_unknown_ids_are_named() -> None:
    for relation in (ClassTable(IDS, LABELS, TABLE, temperature=0.3), SideEmbeddings(IDS, vectors(5), temperature=0.3)):
        with pytest.raises(ValueError, match=r"built over 5 samples and does not know the ids \[11, 60\]"):
            relation.for_batch(torch.tensor([10, 11, 60]), 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassTable(IDS, LABELS, TABLE, temperature=0.0), "temperature must be above 0"),
        (lambda: ClassTable(IDS, LABELS, TABLE[:2], temperature=0.1), r"square table .*\(2, 3\)"),
        (lambda: ClassTable(IDS, LABELS, TABLE[:2, :2], temperature=0.1), "labels go up to 2"),
        (lambda: ClassTable(IDS, LABELS, TABLE / 0, temperature=0.1), "must be finite"),
        (lambda: ClassTable(IDS * 0, LABELS, TABLE, temperature=0.1), "unique"),
        (lambda: SideEmbeddings(IDS, vectors(4), temperature=0.1), r"5 ids, embeddings \(4, 6\)"),
        (lambda: SideEmbeddings(IDS, vectors(5) / 0, temperature=0.1), r"rows \[0, 1, 2, 3, 4\] are not"),
        (lambda: SideEmbeddings(IDS, vectors(5), temperature=float("nan")), "temperature must be above 0"),
    ],
)
def test_impossible_relations_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
