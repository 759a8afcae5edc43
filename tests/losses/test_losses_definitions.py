"""The oracle checks itself: loops reproduce every published golden value, autograd the finite differences."""

from __future__ import annotations

import definitions
import fixture
import pytest
import torch

Z0, Z1, Z2 = fixture.z(0), fixture.z(1), fixture.z(2)
STACKED = torch.cat([Z0, Z1])
LABELS = fixture.labels().repeat(2)
PARTIAL = torch.tensor([0, 0, 1, 1, -1, -1]).repeat(2)

GOLDEN = {
    "ntxent": (0.5794143908, lambda: definitions.ntxent(Z0, Z1, temperature=0.1)),
    "infonce": (0.7693933201, lambda: definitions.infonce(Z0, Z1, fixture.queue(), temperature=0.2)),
    "infonce excluding same labels": (
        0.4838186745,
        lambda: definitions.infonce(
            Z0, Z1, fixture.queue(), temperature=0.2, exclude=(fixture.labels(), fixture.queue_labels())
        ),
    ),
    "supcon out": (6.2600584823, lambda: definitions.supcon(STACKED, LABELS, temperature=0.1)),
    "supcon in": (1.1050155506, lambda: definitions.supcon(STACKED, LABELS, temperature=0.1, form="in")),
    "supcon one class": (4.6211064730, lambda: definitions.supcon(Z0, torch.zeros(6), temperature=0.1)),
    "supcon singletons": (
        6.0453903660,
        lambda: definitions.supcon(Z0, torch.tensor([0, 0, 1, 1, 2, 3]), temperature=0.1),
    ),
    "supcon unlabelled, ids": (
        6.2913172944,
        lambda: definitions.supcon(STACKED, PARTIAL, temperature=0.1, ids=fixture.ids()),
    ),
    "supcon unlabelled, no ids": (8.5724432320, lambda: definitions.supcon(STACKED, PARTIAL, temperature=0.1)),
    "xsample": (0.6041962526, lambda: definitions.xsample(STACKED, fixture.side_embeddings(), temperature=0.1)),
    "xsample class table": (
        6.2608208912,
        lambda: definitions.graph_contrastive(
            STACKED,
            STACKED,
            definitions.class_table_weights(LABELS, fixture.class_similarities(), 0.1),
            temperature=0.1,
            mask=~torch.eye(12, dtype=torch.bool),
        ),
    ),
    "cacr": (-1.1703538625, lambda: definitions.cacr([Z0, Z1, Z2])),
    "cacr uniform": (-1.9747867907, lambda: definitions.cacr([Z0, Z1, Z2], t_pos=None, t_neg=None)),
    "dcl": (-3.3613792724, lambda: definitions.dcl(Z0, Z1, temperature=0.1)),
    "dclw": (-3.2355668766, lambda: definitions.dcl(Z0, Z1, temperature=0.1, sigma=0.5)),
    "clip": (0.4023003288, lambda: definitions.clip(Z0, Z1, logit_scale=10.0)),
}


def test_fixture_has_the_stated_first_row() -> None:
    assert fixture.z(0)[0].tolist() == pytest.approx(fixture.FIRST_ROW_OF_Z0, abs=5e-7)
    assert torch.allclose(fixture.z(0).norm(dim=1), torch.ones(6, dtype=torch.float64), atol=1e-15)


@pytest.mark.parametrize("name", GOLDEN)
def test_definition_reproduces_golden_value(name: str) -> None:
    expected, loops = GOLDEN[name]
    assert float(definitions.mean(loops())) == pytest.approx(expected, abs=1e-10)


def test_cacr_halves_reproduce_their_golden_values() -> None:
    attraction, repulsion = definitions.cacr_halves([Z0, Z1, Z2])
    assert float(torch.stack(attraction).mean()) == pytest.approx(0.2787751993, abs=1e-10)
    assert float(torch.stack(repulsion).mean()) == pytest.approx(-1.4491290618, abs=1e-10)


def test_valid_anchors_are_counted_not_guessed_from_zeros() -> None:
    _, valid = definitions.supcon(STACKED, PARTIAL, temperature=0.1)
    assert sum(valid) == 8
    values, valid = definitions.infonce(Z0, Z1, fixture.queue()[:0], temperature=0.1)
    assert values.tolist() == [0.0] * 6
    assert all(valid)


@pytest.mark.parametrize("name", ["ntxent", "dclw, weights not detached", "supcon in", "cacr", "clip"])
def test_autograd_through_a_definition_is_its_finite_difference(name: str) -> None:
    functions = {
        "ntxent": lambda x: definitions.ntxent(x, Z1, temperature=0.3),
        "dclw, weights not detached": lambda x: definitions.dcl(
            x, Z1, temperature=0.3, sigma=0.5, detach_weights=False
        ),
        "supcon in": lambda x: definitions.supcon(x, fixture.labels(), temperature=0.3, form="in"),
        "cacr": lambda x: definitions.cacr([x, Z1, Z2]),
        "clip": lambda x: definitions.clip(x, Z1, logit_scale=3.0),
    }
    x = Z0.clone().requires_grad_()
    definitions.mean(functions[name](x)).backward()
    slope = definitions.finite_difference(lambda at: definitions.mean(functions[name](at)), Z0)
    assert x.grad is not None
    assert torch.allclose(x.grad, slope, atol=1e-8, rtol=0)


def test_finite_difference_judges() -> None:
    wrong = 2.001 * Z0
    assert not torch.allclose(wrong, definitions.finite_difference(lambda at: (at * at).sum(), Z0), atol=1e-8, rtol=0)
