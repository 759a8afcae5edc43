"""Every relative link and picture of the documents leads to a file; in a fresh clone that is a file of the project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def broken(page: Path, text: str) -> list[str]:
    """Relative targets of a page that do not exist."""
    targets = [target for target in _LINK.findall(text) if "://" not in target and not target.startswith("mailto:")]
    return [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_caught() -> None:
    page = ROOT / "README.md"
    assert broken(page, "[a](nowhere.md#x) ![b](docs/overview.png) [c](https://x.y/z)") == ["nowhere.md"]
