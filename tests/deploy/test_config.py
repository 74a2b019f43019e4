import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from deploy.addresses import resolved
from deploy.config import Config
from deploy.config_load import load
from deploy.errors import ConfigError
from deploy.wiring import pointer
from deploy.wiring_counts import count_readers, counted
from deploy.wiring_training import recipe
from models.item_to_item import ItemToItemConfig


def models(value: object) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from models(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from models(item)


def test_every_key_of_every_section_is_explained_and_no_other_is_taken() -> None:
    for model in models(Config()):
        kind = type(model)
        assert kind.model_config.get("extra") == "forbid", kind
        assert kind.model_config.get("frozen"), kind
        assert kind.__doc__, kind
        for name, field in kind.model_fields.items():
            assert field.description, f"{kind.__name__}.{name}"


def test_embedded_addresses_are_the_loopback_ports(tmp_path: Path) -> None:
    config = load(Config, environment={"FRESHRECALL__EMBEDDED__BROKER_PORT": "1234"})
    assert resolved(config).kafka.bootstrap == "127.0.0.1:1234"
    assert resolved(config).redis.url == "redis://127.0.0.1:16379/0"


def test_given_addresses_stay() -> None:
    config = load(Config, None, {"kafka.bootstrap": "a:1,b:2", "redis.url": "redis://c:3/1"}, {})
    assert resolved(config) == config


def test_a_channel_whose_counts_are_off_is_refused() -> None:
    given = {"popular_now.enabled": False, "serving.channels.popular_now.users": "all"}
    with pytest.raises(ConfigError, match=r"serving\.channels\.popular_now: expected popular_now\.enabled"):
        load(Config, None, given, {})


def test_any_free_port_is_known_to_up_only() -> None:
    config = load(Config, None, {"embedded.store_port": 0}, {})
    with pytest.raises(ConfigError, match=r"redis\.url: embedded, but embedded\.store_port is 0"):
        resolved(config)


def test_the_pre_rank_over_all_candidates_has_what_it_needs() -> None:
    stage = {"serving": {"prerank": {"model": "candidates"}}}
    with pytest.raises(ValueError, match=r"expected update\.prerank = true, got false"):
        Config.model_validate(stage)
    config = Config.model_validate({**stage, "update": {"prerank": True}})
    assert config.serving.rankers == ()
    with pytest.raises(ValueError, match="expected blend_targets above 0"):
        Config.model_validate({"update": {"prerank": True, "blend_targets": 0}})
    with pytest.raises(ValueError, match="blend_counts: expected blend_targets above 0"):
        Config.model_validate({"update": {"blend_counts": True, "blend_targets": 0}})
    with pytest.raises(ValueError, match="expected other names than 'candidates'"):
        Config.model_validate({"rankers": {"candidates": {"kind": "deepfm"}}})
    rank = {"serving": {"rank": {"model": "candidates"}}, "update": {"prerank": True}}
    with pytest.raises(ValueError, match=r"serving\.rank\.model: expected one of no rankers"):
        Config.model_validate(rank)


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ({}, True),
        ({"blend_targets": 0}, False),
        ({"blend_counts": False}, False),
        ({"prerank": True}, False),
        ({"prerank": True, "blend_counts": True}, True),
    ],
)
def test_blends_read_counts_where_they_are_told_to_or_no_network_over_them_does(
    given: dict[str, Any], counts: bool
) -> None:
    config = Config.model_validate({"update": given})
    assert config.update.blends_counts == counts
    assert config.update.counts_items == bool(counted(config)) == (counts or "prerank" in given)
    assert bool(count_readers(config)) == counts  # the stage that would read them too is off
    stage = {"serving": {"prerank": {"model": "candidates"}}}
    if config.update.prerank:
        assert count_readers(Config.model_validate({"update": given, **stage}))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"models": {"same_author": {}}}, "own_items, editorial, fresh, explore or same_"),
        ({"serving": {"channels": {"same_author": {}}}}, "[models], [channels] or [serving.same]"),
        ({"serving": {"same": {"author": {"kinds": ["collect"]}}}}, "same.author.kinds: ['collect'] are"),
        ({"serving": {"caps": {"author": -1}}}, "greater than or equal to 0"),
    ],
)  # fmt: skip
def test_channels_of_shared_attributes_and_caps_are_checked(given: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        Config.model_validate(given)
    fine = {"same": {"author": {}}, "channels": {"same_author": {"quota": 3}}, "caps": {"author": 2}}
    assert Config.model_validate({"serving": fine}).serving.attributes == ("author",)


def test_a_model_whose_positives_are_no_history_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('[models.two_tower]\npositives = ["collect"]\n')
    with pytest.raises(ConfigError) as caught:
        load(Config, file, environment={})
    expected = f"{file}: models.two_tower.positives: ['collect'] are missing from profiles.history_kinds"
    assert str(caught.value).startswith(expected)


def test_features_and_models_by_name(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text(
        '[models.a]\nkind = "youtube_dnn"\n[models.b]\ndim = 32\n'
        '[[features]]\nname = "brand"\nsource = "item"\n[[features]]\nname = "age"\nsource = "user"\n'
    )
    environment = {"FRESHRECALL__MODELS__B__TAU": "0.1", "FRESHRECALL__CHANNELS__CF__WINDOW": "7"}
    config = load(Config, file, environment=environment)
    assert recipe(config).channels == {"cf": ItemToItemConfig(window=7)}
    assert config.models["a"].kind == "youtube_dnn"
    assert (config.models["b"].dim, config.models["b"].tau) == (32, 0.1)
    assert [feature.table for feature in config.features] == ["item.brand", "user.age"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[models."../x"]', "got '../x'"),
        ('[models."a/b"]', "got 'a/b'"),
        ("[models.popularity]", "got 'popularity'"),
        ('[[features]]\nname = "a/../b"\nsource = "item"', "got 'a/../b'"),
        ('[[features]]\nname = "a"\nsource = "item"\n' * 2, "item.a is declared 2 times"),
        ("[models.m]\nhistory_length = 300", "models.m.history_length: expected at most"),
        ("[models.m]\nown_items = 300", "models.m.own_items: expected at most"),
        (
            '[models.m.histories.v]\nkinds = ["collect"]',
            "models.m.histories.v.kinds: ['collect'] are missing",
        ),
        ("[channels.popularity]", "got 'popularity'"),
        ("[channels.two_tower]", "expected names that no model has"),
        ("[channels.cf]\nhistory_length = 300", "channels.cf.history_length: expected at most"),
        ('[channels.cf]\npositives = ["collect"]', "channels.cf.positives: ['collect'] are missing"),
        (
            "[channels.cf]\nneighbors = 5",
            "unknown key 'channels.cf.neighbors'; did you mean 'channels.cf.neighbours'?",
        ),
        (
            '[channels.cf]\nkind = "swing"\nshrinkage = 5',
            "channels.cf: Value error, shrinkage: only a channel",
        ),
    ],
)
def test_what_would_fail_after_a_training_is_refused_before(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "some.toml"
    file.write_text(text + "\n")
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load(Config, file, environment={})


def test_systems_that_share_a_store_have_pointers_of_their_own(tmp_path: Path) -> None:
    text = {"data_dir": tmp_path, "redis.url": "redis://c:3/1", "profiles.prefix": "other"}
    assert pointer(load(Config, None, text, {})).name == "other:pointer"
    assert pointer(load(Config, None, {"redis.url": "redis://c:3/1"}, {})).name == "freshrecall:pointer"


def test_seen_sets_and_exploration_are_checked():
    bought = {"bought": {"kinds": ["purchase"]}}
    assert Config.model_validate({"seen": bought}).seen["bought"].store == "exact"
    for given, expected in (
        ({"seen": {"a:b": bought["bought"]}}, "seen: expected names of letters"),
        ({"serving": {"exploration": {"below_events": 500}}}, "at most profiles.history_length"),
    ):
        with pytest.raises(ValueError, match=re.escape(expected)):
            Config.model_validate(given)
