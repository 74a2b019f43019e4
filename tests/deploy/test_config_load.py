from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from deploy.config_load import load
from deploy.errors import ConfigError


class Broker(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    bootstrap: str = Field("localhost:9092", description="address")
    partitions: int = Field(4, ge=1, description="count")
    options: dict[str, Any] = Field(default_factory=dict, description="passed through")


class Tower(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    dim: int = Field(64, description="width")
    kind: Literal["two_tower", "youtube_dnn"] = Field("two_tower", description="kind")
    positives: tuple[str, ...] = Field(("click",), description="kinds")


class Whole(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    data_dir: Path = Field(Path("var"), description="files")
    kafka: Broker = Field(default_factory=Broker, description="broker")
    models: dict[str, Tower] = Field(default_factory=lambda: {"main": Tower()}, description="models")
    features: list[Tower] = Field(default_factory=list, description="features")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.toml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(Whole, written(tmp_path, text), environment=environment or {})
    return str(caught.value)


def test_later_sources_win_key_by_key(tmp_path: Path) -> None:
    path = written(tmp_path, '[kafka]\nbootstrap = "a:1"\npartitions = 2\n[models.main]\ndim = 32\n')
    environment = {
        "FRESHRECALL__KAFKA__BOOTSTRAP": "b:2",
        "FRESHRECALL__MODELS__MAIN__POSITIVES": '["like", "follow"]',
        "FRESHRECALL__DATA_DIR": "/tmp/elsewhere",
        "UNRELATED__KAFKA__X": "1",
    }
    config = load(Whole, path, {"kafka.bootstrap": "c:3"}, environment)
    assert config.kafka == Broker(bootstrap="c:3", partitions=2)
    assert config.models["main"] == Tower(dim=32, positives=("like", "follow"))
    assert config.data_dir == Path("/tmp/elsewhere")


def test_client_options_pass_through_from_the_environment(tmp_path: Path) -> None:
    environment = {
        "FRESHRECALL__KAFKA__OPTIONS__SECURITY_PROTOCOL": "SASL_SSL",
        "FRESHRECALL__KAFKA__OPTIONS__SSL_CHECK_HOSTNAME": "true",
        "FRESHRECALL__KAFKA__PARTITIONS": "8",
    }
    config = load(Whole, written(tmp_path, ""), environment=environment)
    assert config.kafka.options == {"security_protocol": "SASL_SSL", "ssl_check_hostname": True}
    assert config.kafka.partitions == 8


def test_an_unknown_key_names_file_path_and_the_nearest(tmp_path: Path) -> None:
    text = refusal(tmp_path, "[kafka]\nbootstrp = 'a:1'\n")
    assert text == f"{tmp_path}/some.toml: unknown key 'kafka.bootstrp'; did you mean 'kafka.bootstrap'?"


def test_an_unknown_key_deep_in_a_table_or_a_list(tmp_path: Path) -> None:
    text = refusal(tmp_path, "[models.main]\ndimm = 3\n[[features]]\npositive = []\n")
    assert "'models.main.dimm'; did you mean 'models.main.dim'?" in text
    assert "'features.0.positive'; did you mean 'features.0.positives'?" in text


def test_a_key_of_another_section_at_the_top(tmp_path: Path) -> None:
    assert "did you mean 'kafka.partitions'?" in refusal(tmp_path, "partitions = 3\n")


def test_a_key_like_no_other_lists_the_valid_ones(tmp_path: Path) -> None:
    assert "valid keys here: bootstrap, options, partitions" in refusal(tmp_path, "[kafka]\nzzz = 1\n")


@pytest.mark.parametrize("name", ["FRESHRECALL__KAFKA__BOOTSTRP", "FRESHRECALL__KAFKAA__BOOTSTRAP"])
def test_a_misspelled_variable_is_refused_not_ignored(tmp_path: Path, name: str) -> None:
    text = refusal(tmp_path, "", {name: "x"})
    assert text.startswith("environment FRESHRECALL__KAFKA")
    assert "did you mean 'kafka" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[kafka]\npartitions = 'many'\n", "kafka.partitions: Input should be a valid integer"),
        ("[kafka]\npartitions = 0\n", "kafka.partitions: Input should be greater than or equal to 1, got 0"),
        (
            "[models.main]\nkind = 'mlp'\n",
            "models.main.kind: Input should be 'two_tower' or 'youtube_dnn', got 'mlp'",
        ),
        ("[kafka\n", "not valid TOML"),
    ],
)
def test_wrong_values_say_where_expected_and_got(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_a_list_from_the_environment_is_json(tmp_path: Path) -> None:
    text = refusal(tmp_path, "", {"FRESHRECALL__MODELS__MAIN__POSITIVES": "like"})
    assert "FRESHRECALL__MODELS__MAIN__POSITIVES: expected JSON" in text


def test_a_named_file_has_to_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(Whole, tmp_path / "absent.toml", environment={})
