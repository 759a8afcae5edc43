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


def test_fixture_has_the_stated_first_row() -> None:
    assert fixture.z(0)[0].tolist() == pytest.approx(fixture.FIRST_ROW_OF_Z0, abs=5e-7)
    assert torch.allclose(fixture.z(0).norm(dim=1), torch.ones(6, dtype=torch.float64), atol=1e-15)


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
