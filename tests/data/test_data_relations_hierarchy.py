"""Hierarchies: path and Lin similarity against their definitions, WordNet's own files, what cannot be looked up."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kinfolk.data.relations.hierarchy import HierarchyConfig
from kinfolk.data.relations.taxonomy import Taxonomy
from kinfolk.data.relations.wordnet import WordNet
from kinfolk.data.sources import ArraySource

WORDNET = Path(__file__).parents[2] / ".data" / "wordnet"
needs_wordnet = pytest.mark.skipif(
    not (WORDNET / "data.noun").is_file(), reason="no WordNet: kinfolk data prepare wordnet --out .data/wordnet"
)
PATHS = ["animal/dog/poodle", "animal/dog/terrier", "animal/cat", "car", "animal/dog"]

# The first fields of a line of data.noun are offset, file, type, number of words (hexadecimal), words with a number
# each, number of pointers; a pointer is symbol, offset, part of speech and source.
SYNSETS = [
    ("thing", "01 thing 0", []),
    ("animal", "02 animal 0 beast 0", [("@", "thing")]),
    ("dog", "01 dog 0", [("@", "animal"), ("~", "poodle")]),
    ("cat", "02 cat 0 true_cat 0", [("@", "animal")]),
    ("poodle", "01 poodle 0", [("@", "dog")]),
    ("rex", "01 Rex 0", [("@i", "dog")]),
    ("car", "0a car 0 auto 0 a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0", [("@", "thing"), ("+", "animal")]),
    ("scoundrel", "02 cad 0 dog 1", [("@", "thing")]),
]
INDEX = {"thing": ["thing"], "animal": ["animal"], "beast": ["animal"], "dog": ["dog", "scoundrel"], "cat": ["cat"],
         "true_cat": ["cat"], "poodle": ["poodle"], "rex": ["rex"], "car": ["car"], "cad": ["scoundrel"]}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight synsets in exactly WordNet's form: a licence whose lines begin with two spaces, then lines at offsets."""
    licence = "  1 This software and database is being provided to you\n  2 as it is.\n"

    def lines(offsets: dict[str, int]) -> list[str]:
        return [
            f"{offsets[name]:08d} 03 n {words} {len(pointers):03d} "
            + "".join(f"{symbol} {offsets[to]:08d} n 0000 " for symbol, to in pointers)
            + f'| what a {name} is; "it is one"  \n'
            for name, words, pointers in SYNSETS
        ]

    zeros = lines(dict.fromkeys((name for name, _, _ in SYNSETS), 0))
    starts = [len(licence) + sum(map(len, zeros[:i])) for i in range(len(zeros))]
    offsets = {name: start for (name, _, _), start in zip(SYNSETS, starts, strict=True)}
    (tmp_path / "data.noun").write_text(licence + "".join(lines(offsets)))
    index = [
        f"{lemma} n {len(names)} 2 @ ~ {len(names)} 0 " + " ".join(f"{offsets[name]:08d}" for name in names) + "  \n"
        for lemma, names in sorted(INDEX.items())
    ]
    (tmp_path / "index.noun").write_text(licence + "".join(index))
    (tmp_path / "noun.exc").write_text("oxen ox\nkitties cat\n")
    return tmp_path


def steps_by_walking(a: str, b: str) -> int:
    """Edges between two paths in the tree, the root above all."""
    one, two = a.split("/"), b.split("/")
    shared = next((i for i, (x, y) in enumerate(zip(one, two, strict=False)) if x != y), min(len(one), len(two)))
    return len(one) + len(two) - 2 * shared


def test_path_similarity_counts_the_steps_between_two_concepts() -> None:
    found = Taxonomy.of_paths(PATHS).path_similarities(PATHS)
    expected = torch.tensor([[1 / (1 + steps_by_walking(a, b)) for b in PATHS] for a in PATHS])
    torch.testing.assert_close(found, expected)


def test_lin_similarity_is_that_of_the_most_informative_shared_concept() -> None:
    counts = [3, 1, 4, 8, 0]
    share = {}
    for concept in ("", "animal", "animal/dog", *PATHS):
        below = [
            c + 1 for path, c in zip(PATHS, counts, strict=True) if f"{path}/".startswith(f"{concept}/") or not concept
        ]
        share[concept] = sum(below) / (sum(counts) + len(counts))

    def information(concept: str) -> float:
        return -math.log(share[concept])

    def lin(a: str, b: str) -> float:
        above = [c for c in share if all(not c or f"{x}/".startswith(f"{c}/") for x in (a, b))]
        return 2 * max(information(c) for c in above) / (information(a) + information(b))

    found = Taxonomy.of_paths(PATHS).lin_similarities(PATHS, torch.tensor(counts))
    expected = torch.tensor([[lin(a, b) for b in PATHS] for a in PATHS])
    torch.testing.assert_close(found, expected)
    assert bool((found.diagonal() == 1).all())
    assert found[0, 3] == 0  # they share the root alone, which says nothing


def test_several_ways_up_count_by_the_shortest() -> None:
    taxonomy = Taxonomy({"mule": ("horse", "donkey"), "horse": ("animal",), "donkey": ("pack", "animal"), "pack": ()})
    found = taxonomy.path_similarities(["mule", "pack", "horse", "stone"])
    assert found[0].tolist() == pytest.approx([1, 1 / 3, 1 / 2, 0])
    with pytest.raises(ValueError, match="'a' is above itself"):
        Taxonomy({"a": ("b",), "b": ("a",)}).path_similarities(["a"])
    with pytest.raises(ValueError, match="none empty; found 'animal//dog'"):
        Taxonomy.of_paths(["animal//dog"])


def source(**more: object) -> ArraySource:
    labels = torch.tensor([0, 1, 1, -1])
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    return ArraySource(images, labels, ids=torch.tensor([7, 5, 9, 2]), **more)


def test_samples_relate_as_their_places_in_the_column() -> None:
    paths = ["animal/dog", "animal/cat/", "car", "animal/dog"]
    relation = HierarchyConfig(temperature=0.5).build(source(columns={"hierarchy": paths}))
    logs = relation.for_batch(torch.tensor([2, 7, 5, 9]), 1).log_weights((0, 1), (0, 4))[0]
    expected = torch.tensor([1.0, 1.0, 1 / 3, 1 / 4]) / 0.5
    torch.testing.assert_close(logs - logs[0], expected - expected[0])  # known up to a factor per row


def test_class_names_are_looked_up_in_wordnet(folder: Path) -> None:
    config = HierarchyConfig(wordnet=str(folder))
    relation = config.build(source(class_names=["dog", "Cats"]))
    torch.testing.assert_close(relation.similarities, torch.tensor([[1.0, 1 / 3], [1 / 3, 1.0]]))
    assert relation.for_batch(torch.tensor([2]), 1).log_weights((0, 1), (0, 1)).item() == -math.inf  # unlabelled
    lin = HierarchyConfig(wordnet=str(folder), similarity="lin").build(source(class_names=["dog", "cat"]))
    assert lin.similarities[0, 1] == 0  # of two classes the shared concept holds everything
    given = HierarchyConfig(wordnet=str(folder), synsets=(("Fido", "dog.n.02"),))
    assert given.build(source(class_names=["Fido", "cad"])).similarities[0, 1] == 1


def test_wordnet_reads_its_own_form(folder: Path) -> None:
    wordnet = WordNet(folder)
    names = {wordnet.find(name): name for name in ("thing", "dog", "cat", "poodle", "Rex", "car", "cad")}
    assert names[wordnet.synsets("dog")[1]] == "cad"
    for same in (("dogs", "dog"), ("dog.n.01", "dog"), ("True cat", "cat"), ("true_cat", "cat"), ("kitties", "cat"),
                 ("whelk, poodle", "poodle"), ("lorry/car", "car")):  # fmt: skip
        assert names[wordnet.find(same[0])] == same[1], same
    assert wordnet.find(wordnet.find("dog") or "") == wordnet.find("dog")
    for unknown in ("unicorn", "do", "dog.n.03", "dog.n.00", "n00000001", "n99999999", "", "  1"):
        assert wordnet.find(unknown) is None, unknown
    assert [names.get(s) for s in wordnet.broader(wordnet.find("Rex"))] == ["dog"]
    assert [names.get(s) for s in wordnet.broader(wordnet.find("car"))] == ["thing"]  # ten words, and no + pointer
    assert wordnet.broader(wordnet.find("thing")) == ()


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no noun for 1 of 2 classes: \['Ankle boot'\]. Give their synsets"):
        HierarchyConfig(wordnet=str(folder)).build(source(class_names=["dog", "Ankle boot"]))
    with pytest.raises(ValueError, match=r"classes that do not exist: \['cow'\]"):
        HierarchyConfig(wordnet=str(folder), synsets=(("cow", "dog"),)).build(source(class_names=["dog", "cat"]))
    with pytest.raises(ValueError, match="needs class names"):
        HierarchyConfig(wordnet=str(folder)).build(source())
    with pytest.raises(FileNotFoundError, match="fetch WordNet with `kinfolk data prepare wordnet"):
        HierarchyConfig(wordnet=str(tmp_path / "nowhere")).build(source(class_names=["dog", "cat"]))
    with pytest.raises(
        ValueError, match="needs 'hierarchy', and 'arrays' knows labels; with class names, name WordNet"
    ):
        HierarchyConfig().build(source())
    with pytest.raises(ValueError, match=r"2 samples have an empty hierarchy path, such as ids \[5, 2\]"):
        HierarchyConfig().build(source(columns={"hierarchy": ["a", "", "b", "/"]}))
    with pytest.raises(ValueError, match="synsets are WordNet's"):
        HierarchyConfig(synsets=(("dog", "dog.n.01"),))
    with pytest.raises(ValueError, match="similarity must be path or lin"):
        HierarchyConfig(similarity="wu-palmer")


@needs_wordnet
@pytest.mark.parametrize(
    ("a", "b", "similarity"),
    [("dog", "cat", 0.2), ("dog.n.01", "wolf.n.01", 1 / 3), ("car", "bicycle", 0.2), ("boy", "girl", 1 / 6),
     ("n02084071", "dog", 1.0)],
)  # fmt: skip
def test_path_similarities_in_wordnet_are_the_published_ones(a: str, b: str, similarity: float) -> None:
    wordnet = WordNet(WORDNET)
    synsets = wordnet.find_all([a, b])
    found = wordnet.taxonomy(synsets).path_similarities(synsets)
    assert float(found[0, 1]) == pytest.approx(similarity)


@needs_wordnet
def test_wordnet_knows_the_words_that_data_sets_use() -> None:
    wordnet = WordNet(WORDNET)
    known = [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Sneakers",
        "airplane",
        "automobile",
        "deer",
        "tench, Tinca tinca",
        "mice",
    ]
    assert all(wordnet.find_all(known))
    assert wordnet.find("tench, Tinca tinca") == "n01440764"  # as ImageNet names it
