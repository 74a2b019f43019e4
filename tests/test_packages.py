"""What an installation that is not editable would leave out."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(settings["tool"]["setuptools"]["packages"])
    rooms = ("stream", "models", "updater", "serving", "deploy")
    there = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for room in rooms
        for file in (ROOT / room).rglob("__init__.py")
    }
    assert listed == there
