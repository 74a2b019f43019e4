"""Reads the configuration: a TOML file, `FRESHRECALL__SECTION__KEY` variables, the command line.

Later sources win key by key. Unknown keys are refused wherever they come from, with the nearest valid one.
"""

import difflib
import json
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from deploy.errors import ConfigError

ENV_PREFIX = "FRESHRECALL__"
DEFAULT_FILE = Path("freshrecall.toml")

Tree = dict[str, Any]
Location = tuple[str | int, ...]
M = typing.TypeVar("M", bound=BaseModel)


def load(
    model: type[M],
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> M:
    """Build `model` from file `path`, the environment and `overrides` ("section.key" -> value).

    Without `path`, ./freshrecall.toml is read if it exists. Raises ConfigError with source, key path and
    what is expected there.
    """
    file = path if path is not None else (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    document = _read_toml(file) if file is not None else {}
    variables = _read_environment(model, os.environ if environment is None else environment)
    given: Tree = {}
    for key, value in (overrides or {}).items():
        _put(given, key.split("."), value)
    try:
        return model.model_validate(_merged(_merged(document, variables), given))
    except ValidationError as error:
        lines = [
            f"{_source(problem['loc'], file, variables, given)}: {_explain(model, problem)}"
            for problem in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines)) from None


def _read_toml(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _read_environment(model: type[BaseModel], environment: Mapping[str, str]) -> Tree:
    """Collect the variables of this program into a tree; values of container fields are JSON."""
    tree: Tree = {}
    for name, text in sorted(environment.items()):
        if not name.startswith(ENV_PREFIX):
            continue
        path = name.removeprefix(ENV_PREFIX).lower().split("__")
        kind = _annotation_at(model, tuple(path))
        if kind is Any or _is_container(kind):
            try:
                value = json.loads(text)
            except json.JSONDecodeError as error:
                if kind is not Any:
                    raise ConfigError(
                        f"environment {name}: expected JSON for {kind}, got {text!r}: {error}"
                    ) from None
                value = text
        else:
            value = text  # pydantic reads numbers and booleans from text
        _put(tree, path, value)
    return tree


def _put(tree: Tree, path: list[str], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _merged(base: Tree, over: Tree) -> Tree:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _branches(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _branches(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(branch for part in typing.get_args(annotation) for branch in _branches(part))
    return (annotation,)


def _is_model(annotation: Any) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_container(annotation: Any) -> bool:
    return any(
        _is_model(branch)
        or (typing.get_origin(branch) or branch) in (dict, list, tuple, set, frozenset, Mapping)
        for branch in _branches(annotation)
    )


def _annotation_at(annotation: Any, path: Location) -> Any:
    """The declared type at a key path, or None where the model has no such place."""
    if not path:
        return annotation
    for branch in _branches(annotation):
        if branch is Any:
            return Any
        if _is_model(branch) and path[0] in branch.model_fields:
            return _annotation_at(branch.model_fields[str(path[0])].annotation, path[1:])
        arguments = typing.get_args(branch)
        if arguments and not _is_model(branch):
            item = arguments[1] if typing.get_origin(branch) in (dict, Mapping) else arguments[0]
            return _annotation_at(item, path[1:])
    return None


def _explain(model: type[BaseModel], problem: Any) -> str:
    location: Location = problem["loc"]
    key = ".".join(map(str, location))
    if not location:  # a rule over several sections; its message names them
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {_suggest(model, location)}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: {problem['msg']}, got {problem['input']!r}"


def _suggest(model: type[BaseModel], location: Location) -> str:
    parents = [branch for branch in _branches(_annotation_at(model, location[:-1])) if _is_model(branch)]
    valid = sorted(name for parent in parents for name in parent.model_fields)
    wanted = str(location[-1])
    prefix = "".join(f"{part}." for part in location[:-1])
    near = difflib.get_close_matches(wanted, valid, n=1, cutoff=0.5)
    if near:
        return f"did you mean {prefix + near[0]!r}?"
    elsewhere = [
        f"{section}.{wanted}" for section in model.model_fields if _annotation_at(model, (section, wanted))
    ]
    if elsewhere and not prefix:
        return f"did you mean {elsewhere[0]!r}?"
    return f"valid keys here: {', '.join(valid)}"


def _source(location: Location, file: Path | None, variables: Tree, given: Tree) -> str:
    """Name where the value at `location` came from: the last source that holds it."""
    if location and _holds(given, location):
        return "command line"
    if location and _holds(variables, location):
        return f"environment {ENV_PREFIX}{'__'.join(str(part).upper() for part in location)}"
    return str(file) if file is not None else "configuration"


def _holds(tree: Any, location: Location) -> bool:
    for part in location:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True
