"""YAML in, validated values out; every complaint carries the file and the path inside it."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from autopeft.errors import AutopeftError, suggest
from autopeft.registry import Registry


class Strict(BaseModel):
    """Base of every configuration value: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-4` as a number (YAML 1.1 does not) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)|\.\d+([eE][-+]?\d+)?)$")
for _first in "-+.0123456789":
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).insert(0, ("tag:yaml.org,2002:float", _FLOAT))


class _Dumper(yaml.SafeDumper):
    """Safe YAML that `_Loader` reads back: texts that look like its numbers are quoted."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML, keys in their order."""
    text: str = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `AutopeftError` names the file (and line) when there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AutopeftError(f"{path}: cannot be read ({_reason(error)})") from error
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise AutopeftError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(data, dict):
        raise AutopeftError(f"{path}: expected 'key: value' lines, found {'nothing' if data is None else 'no mapping'}")
    return data


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def parse(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """`data` as a `model`; `AutopeftError("<where>: <path>: <what>")` for the first thing that is wrong."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise AutopeftError(explain(error, model, where)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first complaint of a pydantic error as one line: place, what is wrong, the nearest known key."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    place = ".".join(path)
    head = f"{where}: {place}" if place else where
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        return f"{head}: unknown key; {suggest(path[-1], known)}" if known else f"{head}: unknown key"
    if first["type"] == "missing":
        return f"{head}: missing"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    given = "" if isinstance(first["input"], (dict, BaseModel)) else f" (given: {first['input']!r})"
    return f"{head}: {message}{given}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The field names of the sub-model that `path` leads to from `model`; empty when it leads elsewhere."""
    for part in path:
        field = model.model_fields.get(part)
        nested = (
            [a for a in _unfold(field.annotation) if isinstance(a, type) and issubclass(a, BaseModel)] if field else []
        )
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)


def _unfold(annotation: Any) -> list[Any]:
    return [annotation, *(inner for arg in get_args(annotation) for inner in _unfold(arg))]


def read_plugin(registry: Registry[M], spec: Any, where: str, default: str | None = None) -> M:
    """The configured plug-in that a YAML asks for: a name, or a mapping of `name` and the plug-in's own fields.

    A mapping without a name, and None, are of the `default` kind if there is one. `AutopeftError` starting with `where`
    for an unknown name, an unknown field or a wrong value.
    """
    fields = {"name": spec} if isinstance(spec, str) else ({} if spec is None and default else spec)
    if isinstance(fields, Mapping) and default:
        fields = {"name": default, **fields}
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
        raise AutopeftError(f"{where}: expected a name or a mapping with 'name'; {suggest('', registry.names())}")
    try:
        kind = registry.get(fields["name"])
    except AutopeftError as error:
        raise AutopeftError(f"{where}: {error}") from None
    return parse(kind, {k: v for k, v in fields.items() if k != "name"}, where)
