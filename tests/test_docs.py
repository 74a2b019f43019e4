"""Documentation names only files that exist, and its examples are valid."""

import re
import tomllib
from pathlib import Path

import pytest

from deploy.config import Config
from models.feature_config import FeatureConfig, check_features
from models.model_config import ModelConfig
from serving.fusion_config import CANDIDATES

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


def test_examples_of_models_are_valid() -> None:
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    # One file is made of them: a table that two examples name is the same table.
    parsed = tomllib.loads("\n".join(examples))
    assert set(parsed) == {"models", "features"}
    model = ModelConfig.model_validate(parsed["models"]["tower"])
    assert [count.by for count in model.popularity] == ["", "", "scene"]
    assert model.histories["views"].length == 30
    features = [FeatureConfig.model_validate(feature) for feature in parsed["features"]]
    check_features(features)
    assert {feature.kind for feature in features} == {"category", "categories", "tokens", "number", "cross"}


def test_the_example_of_fusion_is_valid() -> None:
    page = (ROOT / "docs/fusion.md").read_text(encoding="utf-8")
    example, counts, explore, popular, attributes, seen, stages, network, met = re.findall(
        r"```toml\n(.*?)```", page, re.DOTALL
    )
    assert Config.model_validate(tomllib.loads(counts)).update.blends_counts
    assert Config.model_validate(tomllib.loads(popular)).popular_now.by == (("geo", "scene"), ("geo",))
    assert Config.model_validate(tomllib.loads(explore)).serving.exploration.places(10) == 2
    assert Config.model_validate(tomllib.loads(seen)).seen["shown"].store == "bloom"
    assert Config.model_validate(tomllib.loads(stages)).serving.rankers == ("light",)
    assert Config.model_validate(tomllib.loads(network)).serving.prerank.model == CANDIDATES
    assert Config.model_validate(tomllib.loads(met)).update.prerank_met == ("impression",)
    serving = Config.model_validate(tomllib.loads(attributes)).serving
    assert serving.attributes == ("audience", "author_id", "available", "category")
    assert len(serving.rules("kids")) == 2
    assert serving.filters.missing == "block"
    config = Config.model_validate(tomllib.loads(example))
    assert config.serving.channels["popularity"].users == "all"
    assert config.serving.scenes["cart"].channels["popularity"].users == "nobody"
    assert config.serving.filters.seen[0].horizon_h == 168
