import tomllib
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from deploy import reference
from deploy.config import Config
from deploy.config_load import load
from models.model_config import ModelConfig


class Tower(BaseModel):
    """One tower."""

    dim: int = Field(64, description="Width.")
    kinds: tuple[str, ...] = Field(("a", 'q"uote'), description="Kinds.")


class Whole(BaseModel):
    data_dir: Path = Field(Path("var"), description="Files.")
    clock: Literal["wall", "event"] = Field("wall", description="Which clock.")
    limit: int | None = Field(None, description="No limit by default.")
    weights: dict[str, float] = Field({"é": 0.5}, description="Weights.")
    tower: Tower = Field(Tower(), description="The tower.")
    models: dict[str, Tower] = Field({"main": Tower(dim=8)}, description="By name.")
    features: list[Tower] = Field([Tower(), Tower(dim=3)], description="Many.")


def test_the_printed_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = Whole(limit=3, clock="event")
    path = tmp_path / "printed.toml"
    path.write_text(reference.as_toml(config))
    assert load(Whole, path, environment={}) == config


def test_a_key_without_value_is_a_comment() -> None:
    text = reference.as_toml(Whole())
    assert "# No limit by default.\n# limit =\n" in text
    assert "limit" not in tomllib.loads(text)


def test_every_key_stands_in_the_reference_with_type_default_and_meaning() -> None:
    text = reference.as_markdown(Whole)
    assert '| `clock` | `wall` or `event` | `"wall"` | Which clock. |' in text
    assert "### `[models.<name>]`\n\nOne tower.\n" in text
    assert "### `[[features]]`" in text
    assert "| `dim` | integer | `64` | Width. |" in text


def test_the_generated_part_of_a_page_is_kept_current(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{reference.BEGIN}\nold\n{reference.END}\nafter\n")
    assert not reference.is_current(page, Whole)
    reference.write(page, Whole)
    assert reference.is_current(page, Whole)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="expected the two lines"):
        reference.write(page, Whole)


def test_defaults_of_a_kind_are_listed() -> None:
    text = reference.as_markdown(Config)
    two_tower = ModelConfig(kind="two_tower")
    row = next(line for line in text.splitlines() if line.startswith("| `two_tower` |"))
    assert f"tau = {two_tower.tau}" in row
    assert f"own_items = {two_tower.own_items}" in row
