"""What is read from a batch, and what is wrong with one, said by every method that takes labels."""

from __future__ import annotations

import pytest
import torch

from kinfolk.methods import ExConConfig, PaCoConfig
from kinfolk.methods.batches import read_ids, read_labels
from kinfolk.nn import HeadConfig, Prototypes

VIEWS = [torch.zeros(3, 1, 8, 8)] * 2


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([0.0, 1.6, 1.0]), TypeError, "labels"),
        (torch.tensor([True, False, True]), TypeError, "labels"),
        (torch.tensor([0, -2, 1]), ValueError, "-1 \\(unlabelled\\) or a class >= 0, found -2"),
        (torch.tensor([[0], [1], [2]]), ValueError, "a label for each image: found labels \\(3, 1\\), views \\(3, 1"),
        (torch.tensor([0, 1]), ValueError, "found labels \\(2,\\)"),
    ],
)
def test_labels_that_are_none_are_refused(labels: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_labels({"views": VIEWS, "labels": labels}, method="SupCon")


@pytest.mark.parametrize("labels", [torch.tensor([0.0] * 64), torch.tensor([[0]] * 64), torch.tensor([-2] * 64)])
def test_every_method_with_labels_refuses_them(labels, labelled_config, digits, build):
    batch = digits(0, views=3 if labelled_config.kind == "excon" else 2)
    with pytest.raises((TypeError, ValueError), match="label"):
        build(labelled_config)({**batch, "labels": labels})


def test_small_integers_are_labels_too(digits, build) -> None:
    """With uint8, -1 would be sample 255."""
    config = PaCoConfig(classes=10, class_counts=(100,) * 10, queue_size=160, head=HeadConfig(hidden=8, out_dim=6))
    batch = {**digits(0), "ids": torch.arange(230, 230 + 64)}
    values = [
        build(config).eval()({**batch, "labels": batch["labels"].to(kind)})["loss"].item()
        for kind in (torch.int64, torch.uint8)
    ]
    assert values[0] == values[1]


def test_samples_without_ids_are_their_own_on_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import kinfolk.methods.batches as module

    monkeypatch.setattr(module.distributed, "world_size", lambda: 2)
    found = []
    for rank in range(2):
        monkeypatch.setattr(module.distributed, "rank", lambda rank=rank: rank)
        found += read_ids({"views": VIEWS, "ids": None}).tolist()
    assert sorted(found) == list(range(6))


def test_excon_says_how_its_views_are_made(digits, build) -> None:
    with pytest.raises(ValueError, match=r"first is the plain image; found 2.*MultiViewsConfig\(groups="):
        build(ExConConfig(classes=10))(digits(0))


def test_a_flat_explanation_is_no_background(digits, build) -> None:
    """Before the explainer knows anything its map is flat and keeps the whole image."""
    method = build(ExConConfig(classes=10, background=True, start=0.0))
    assert not method.explainer.weight.any()
    assert not method.prepare(digits(0, views=3))["wrong"].any()


def test_a_prototype_that_a_row_cancels_stays() -> None:
    prototypes = Prototypes(2, 3, momentum=0.5)
    before = prototypes.rows.clone()
    prototypes.update(-before, torch.arange(2))
    torch.testing.assert_close(prototypes.rows, before)
