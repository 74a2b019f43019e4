"""Documentation names only files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
PATHS = re.compile(
    r"\b(?:stream|models|updater|serving|deploy|benchmarks|docs|tests)/[\w./-]*\w\.(?:py|md|lua|yaml|json)\b"
)
LINKS = re.compile(r"\]\((?!https?:|#)([^)#\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [name for name in PATHS.findall(text) if not (ROOT / name).exists()]
    missing += [link for link in LINKS.findall(text) if not (page.parent / link).exists()]
    assert not missing


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(PATHS.findall(text))
    assert len(named) > 30
