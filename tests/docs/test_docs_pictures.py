"""The picture of the gradients has a panel for every loss of vectors, and its arrows are gradients."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path

import pytest
import torch

from kinfolk import losses

SCRIPT = Path(__file__).parents[2] / "docs" / "pictures" / "loss_gradients.py"
WITHOUT_VECTORS = {"BalancedSoftmax"}
ANY_OF_THE_OTHERS = {"GraphContrastive"}


@pytest.fixture(scope="module")
def script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("loss_gradients", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_loss_has_a_panel(script: types.ModuleType) -> None:
    expected = {name.removesuffix("Loss") for name in losses.__all__} - WITHOUT_VECTORS - ANY_OF_THE_OTHERS
    assert script.panels().keys() == expected


def test_a_step_along_the_arrows_lowers_the_loss(script: types.ModuleType) -> None:
    angles = torch.tensor(script.FIRST + script.SECOND, dtype=torch.float64)
    for name, (_, panel) in script.panels().items():
        steps = script.arrows(panel)
        assert float(steps.abs().max()) == pytest.approx(1)
        before, after = (float(panel(*script.on_circle(a).split(6)).detach()) for a in (angles, angles + 1e-3 * steps))
        assert after < before, name


def test_what_the_page_says_of_five_losses(script: types.ModuleType) -> None:
    step = {name: script.arrows(panel) for name, (_, panel) in script.panels().items()}
    far, near = [3, 9], [5, 11]  # views of one sample, degrees 152 and 188, 300 and 309
    for name in ("NTXent", "DCL", "CACR"):
        assert int(step[name].abs().argmax()) in far, name  # the far pair is pulled hardest
    assert step["DCL"].abs()[near].mean() > step["NTXent"].abs()[near].mean()  # a near pair is pulled on
    blue, orange = 1, 8  # neighbours of two classes, degrees 78 and 104
    assert step["SupCon"][blue] < -0.5  # it flees,
    assert step["SupCon"][orange] > 0.5
    assert step["XSample"][blue] > -0.1  # and not where the two are akin
    assert step["XSample"][orange] < 0.3
    assert step["NTXent"][10] < 0 < step["SupCon"][10]  # green at 250 degrees: away from its classmate, or to it


def test_picture_is_drawn(script: types.ModuleType, tmp_path: Path) -> None:
    assert script.draw(tmp_path / "p.png").stat().st_size > 50_000
