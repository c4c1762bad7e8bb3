"""The documentation holds together: every link leads somewhere, every page is found from the index once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from cachesvc.settings import Settings
from cachesvc.settings.levels import Levels

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
_LINK = re.compile(r"\]\(([^)#\s]+)")


def links(page: Path) -> list[Path]:
    """The files that a page links to."""
    found = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    return [(page.parent / link).resolve() for link in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in links(page) if not link.exists()] == []


def test_the_index_has_every_page_once() -> None:
    index = DOCS / "index.md"
    listed = Counter(link for link in links(index) if DOCS in link.parents)
    assert listed == Counter(page for page in DOCS.rglob("*.md") if page != index)


def test_decisions_are_numbered_once_as_their_files_are() -> None:
    decisions = sorted((DOCS / "decisions").glob("*.md"))
    numbers = [int(page.name[:4]) for page in decisions]
    assert len(set(numbers)) == len(numbers)
    assert [page.read_text().split(".")[0] for page in decisions] == [f"# {number}" for number in numbers]


def test_every_section_of_the_settings_is_named() -> None:
    page = (DOCS / "how-to" / "configure.md").read_text()
    sections = {*Settings.model_fields, *(f"levels.{level}" for level in Levels.model_fields)} - {"levels", "loaders"}
    assert [name for name in sections if f"`[{name}]`" not in page] == []
    assert "`[loaders.NAME]`" in page
