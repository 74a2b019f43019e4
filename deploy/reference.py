"""The configuration explained: as a TOML file, and as the reference tables of docs/operating.md."""

import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

BEGIN, END = "<!-- config:begin (generated: make docs) -->", "<!-- config:end -->"


def as_toml(config: BaseModel) -> str:
    """Effective values as a TOML file, each under its meaning. Keys without a value are comments."""
    return "\n".join(_toml_lines(config, "")).lstrip("\n") + "\n"


def _toml_lines(model: BaseModel, path: str) -> Iterator[str]:
    fields = type(model).model_fields
    plain = [name for name in fields if not _tables(getattr(model, name))]
    for name in plain:
        value = getattr(model, name)
        yield f"# {fields[name].description}"
        yield f"# {name} =" if value is None else f"{name} = {_toml_value(value)}"
    for name in fields:
        for header, table in _tables(getattr(model, name)):
            inner = f"{path}.{name}{header}" if path else f"{name}{header}"
            yield ""
            yield f"# {fields[name].description}"
            yield f"[[{inner}]]" if isinstance(getattr(model, name), (list, tuple)) else f"[{inner}]"
            yield from _toml_lines(table, inner)


def _tables(value: Any) -> list[tuple[str, BaseModel]]:
    """What becomes TOML tables: a model, the models of a dict (by name) or of a list (repeated)."""
    if isinstance(value, BaseModel):
        return [("", value)]
    if isinstance(value, dict):
        return [(f".{_key(name)}", item) for name, item in value.items() if isinstance(item, BaseModel)]
    if isinstance(value, (list, tuple)):
        return [("", item) for item in value if isinstance(item, BaseModel)]
    return []


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)  # JSON strings are TOML basic strings


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else json.dumps(name, ensure_ascii=False)


def as_markdown(model: type[BaseModel]) -> str:
    """One table per section: key, type, default, meaning."""
    return "\n".join(_markdown_lines(model, "")).strip() + "\n"


def _markdown_lines(model: type[BaseModel], path: str) -> Iterator[str]:
    own = {name: field for name, field in model.model_fields.items() if _section(field) is None}
    if own:
        yield f"### `{path or 'top level'}`"
        yield ""
        if path and model.__doc__:
            yield " ".join(model.__doc__.split("\n\n")[0].split())
            yield ""
        yield "| key | type | default | meaning |"
        yield "|---|---|---|---|"
        for name, field in own.items():
            row = (f"`{name}`", _type_name(field.annotation), _default(field), field.description or "")
            yield "| " + " | ".join(_escaped(cell) for cell in row) + " |"
        yield ""
    by_kind = getattr(model, "defaults_by_kind", {})
    if by_kind:
        yield "Where nothing is given, some kinds have defaults of their own:"
        yield ""
        yield "| kind | defaults |"
        yield "|---|---|"
        for kind, defaults in by_kind.items():
            if defaults:
                given = ", ".join(f"{key} = {_toml_value(value)}" for key, value in defaults.items())
                yield f"| `{kind}` | {_escaped(f'`{given}`')} |"
        yield ""
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is not None:
            kind, inner = section
            header = f"{path}.{name}" if path else name
            wrapped = {"model": f"[{header}]", "dict": f"[{header}.<name>]", "list": f"[[{header}]]"}[kind]
            yield from _markdown_lines(inner, wrapped if not path else header)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


def _section(field: FieldInfo) -> tuple[str, type[BaseModel]] | None:
    annotation = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "model", annotation
    arguments = [part for part in typing.get_args(annotation) if isinstance(part, type)]
    models = [part for part in arguments if issubclass(part, BaseModel)]
    if not models:
        return None
    return ("dict" if typing.get_origin(annotation) is dict else "list"), models[0]


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in arguments if part is not type(None))
    if origin in (list, tuple, set, frozenset):
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"table of {_type_name(arguments[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "boolean", Path: "path", Any: "anything"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is None else f"`{_toml_value(value)}`"


def write(path: Path, model: type[BaseModel]) -> None:
    """Replace the generated part of `path`. Raises ValueError if the file does not mark it."""
    path.write_text(_with_reference(path, model), encoding="utf-8")


def is_current(path: Path, model: type[BaseModel]) -> bool:
    """Whether the generated part of `path` is what `write` would make of it."""
    return path.read_text(encoding="utf-8") == _with_reference(path, model)


def _with_reference(path: Path, model: type[BaseModel]) -> str:
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path}: expected the two lines {BEGIN!r} and {END!r} once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{as_markdown(model)}\n{END}{rest.split(END)[1]}"
