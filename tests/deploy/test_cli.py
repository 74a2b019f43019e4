import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.embedded import EmbeddedBroker, free_port

VERBS = sorted(command.name or "" for command in app.registered_commands)
PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120"}


def freshrecall(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | PLAIN | environment,
    )


def test_the_verbs_of_the_issue_exist() -> None:
    assert {"up", "consume", "schedule", "serve", "retrain", "replay", "demo"} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_that_parses(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"], env=PLAIN)
    assert result.exit_code == 0
    text = result.output
    assert "Example" in text
    examples = re.findall(rf"^\s*(?:\w+=\S+ )*freshrecall {verb}(.*)$", text, re.MULTILINE)
    assert examples
    options = set(re.findall(r"--[a-z][a-z-]+", text.partition("Options")[2]))
    for example in examples:
        assert set(re.findall(r"--[a-z][a-z-]+", example)) <= options


def test_help_loads_no_heavy_library() -> None:
    heavy = ("torch", "faiss", "numba", "kafka", "pyarrow", "pydantic")
    code = f"import deploy.cli, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("verb", ["consume", "serve", "schedule", "up"])
def test_an_unknown_key_is_one_line_and_code_2(verb: str, tmp_path: Path) -> None:
    file = tmp_path / "typo.toml"
    file.write_text("[kafka]\nbootstrp = 'x:1'\n")
    done = freshrecall(verb, "--config", str(file))
    assert done.returncode == 2
    assert done.stderr == (
        f"freshrecall: {file}: unknown key 'kafka.bootstrp'; did you mean 'kafka.bootstrap'?\n"
    )


@pytest.mark.parametrize("verb", [["consume"], ["serve"], ["up"], ["replay", "completejourney"]])
def test_an_absent_broker_is_one_line_with_address_and_setting(verb: list[str], tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    options = ("--kafka", address, "--data-dir", str(tmp_path))
    settings = {"FRESHRECALL__KAFKA__CONNECT_TIMEOUT_MS": "500"}
    if verb == ["up"]:  # it starts the store, whose port another process may have
        settings["FRESHRECALL__EMBEDDED__STORE_PORT"] = "0"
    done = freshrecall(*verb, *options, **settings)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("freshrecall: ")
    assert address in line
    assert "kafka.bootstrap" in line


@pytest.mark.parametrize("verb", ["consume", "serve"])
def test_an_absent_store_is_one_line_with_address_and_setting(verb: str, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with EmbeddedBroker(tmp_path) as broker:
        done = freshrecall(verb, "--kafka", broker.address, "--redis", url, "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    line = done.stderr.splitlines()[-1]
    assert url.removesuffix("/0").removeprefix("redis://") in line
    assert "redis.url" in line


def test_a_wrong_speed_says_what_is_expected() -> None:
    result = CliRunner().invoke(app, ["replay", "x.parquet", "--speed", "fast"], env=PLAIN)
    assert result.exit_code == 2
    assert "or max; got 'fast'" in " ".join(result.output.replace("│", " ").split())


def test_config_prints_a_file_that_reads_back(tmp_path: Path) -> None:
    printed = freshrecall("config", FRESHRECALL__KAFKA__BOOTSTRAP="elsewhere:9092")
    assert printed.returncode == 0, printed.stderr
    assert 'bootstrap = "elsewhere:9092"' in printed.stdout
    file = tmp_path / "printed.toml"
    file.write_text(printed.stdout)
    again = freshrecall("config", "--config", str(file))
    assert tomllib.loads(again.stdout) == tomllib.loads(printed.stdout)


def test_container_files_set_keys_that_exist() -> None:
    folder = Path(__file__).parents[2] / "deploy"
    text = (folder / "compose.yaml").read_text() + (folder / "Dockerfile").read_text()
    variables = dict(re.findall(r"(FRESHRECALL__[A-Z_]+)[:=] ?(\S+)", text))
    assert len(variables) >= 4
    done = freshrecall("config", **variables)
    assert done.returncode == 0, done.stderr
    assert 'host = "0.0.0.0"' in done.stdout
