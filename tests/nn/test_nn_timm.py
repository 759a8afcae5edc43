"""Encoders of timm where it cannot be imported: what the error says. A real timm model is not run by these tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kinfolk.nn.timm_encoder import TimmConfig


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, r'needs timm, which is not installed: pip install "kinfolk\[timm\]"'),
        ("import another_library_of_timm", "cannot be imported .*another_library_of_timm"),
        ("raise ModuleNotFoundError('No module', name='torchvision')", "needs torchvision, which is not installed"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "nms does not exist.*fits your torch"),
    ],
)
def test_the_error_says_why_timm_cannot_be_imported(
    code: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if code is None:
        monkeypatch.setitem(sys.modules, "timm", None)
    else:  # stands in for the import error alone
        monkeypatch.delitem(sys.modules, "timm", raising=False)
        (tmp_path / "timm.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=message):
        TimmConfig("resnet18").build(channels=3, image_size=(32, 32))


def test_a_real_timm_model_encodes() -> None:
    try:
        import timm  # noqa: F401
    except Exception as error:
        pytest.skip(f"timm cannot be imported here: {error}")
    encoder = TimmConfig("resnet10t").build(channels=1, image_size=(32, 32))
    assert encoder.feature_dim == 512
    with pytest.raises(ValueError, match="timm has no model 'resnet19'"):
        TimmConfig("resnet19").build(channels=1, image_size=(32, 32))
