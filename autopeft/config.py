"""YAML in, validated values out; every complaint carries the file and the path inside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError
from pydantic.fields import FieldInfo

from autopeft.doors import MOST_LEVELS, check_plain, door, read_text, reason
from autopeft.errors import AutopeftError, shown, suggest
from autopeft.registry import Registry


class Strict(BaseModel):
    """Base of every configuration value: frozen, an unknown key is an error, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def switched(value: Any, off: Any) -> Any:
    """What a field is given that may be switched off: `none`, `false` and null are `off`, `default` is no option."""
    if value is None or value is False or value == "none":
        return off
    return {} if value == "default" else value


def plugin_field(kind: type[Strict], reader: Callable[[Any], Any]) -> tuple[BeforeValidator, PlainSerializer]:
    """A field that is read by a registry and written back as `{name: ..., options}`."""
    return BeforeValidator(lambda value: value if isinstance(value, kind) else reader(value)), PlainSerializer(as_spec)


def as_spec(value: Any) -> dict[str, Any]:
    """A configured plug-in as plain data: its name and its options."""
    return {"name": value.name, **value.model_dump(mode="json", exclude_none=True)}


if TYPE_CHECKING:
    _Parser = yaml.SafeLoader
else:
    # The same in C, where there is one: ten times as fast.
    _Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: Bytes and values (aliases written out) of a YAML file, and characters of one value. Real ones have some thousand
#: bytes; a run folder's, with the points of the sampler `given` in it, a million.
_MOST_BYTES, _MOST_VALUES, _MOST_CHARACTERS = 2 * 2**20, 100_000, 50_000
_MOST_DIGITS = 100
_TAG = "tag:yaml.org,2002:"
_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}


class _Loader(_Parser):
    """Safe YAML that reads `1e-4` as a number (YAML 1.1 does not), dates as texts, and refuses a key given twice."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Whatever a value's own type says of its text, said with its line."""
        try:
            return super().construct_object(node, deep=deep)
        except yaml.YAMLError:
            raise
        except Exception as error:
            what = f"not a value of type '{node.tag.removeprefix(_TAG)}': {reason(error)}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == f"{_TAG}merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {shown(key)} twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def _number(self, node: yaml.ScalarNode) -> int | float:
        """A number; one of thousands of digits is none."""
        if len(node.value) > _MOST_DIGITS:
            what = f"a number of {len(node.value):,} digits"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        read = self.construct_yaml_int if node.tag == f"{_TAG}int" else self.construct_yaml_float
        value: int | float = read(node)
        return value


for _type in ("int", "float"):
    _Loader.add_constructor(_TAG + _type, _Loader._number)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in rules if tag in _TAGS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?([eE][-+]?\d+)|\.\d+([eE][-+]?\d+)?)$")
for _first in "-+.0123456789":
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).insert(0, (f"{_TAG}float", _FLOAT))


class _Dumper(yaml.SafeDumper):
    """Safe YAML that `_Loader` reads back: texts that look like its numbers are quoted."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML, keys in their order."""
    text: str = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, as plain data; `AutopeftError` names the file (and line) when there is none."""
    text = read_text(path, most=_MOST_BYTES)
    try:
        with door(path, "not valid YAML"):
            _check_events(text)
            data = yaml.load(text, Loader=_Loader)
    except AutopeftError as error:
        cause = error.__cause__
        mark = getattr(cause, "problem_mark", None)
        if mark is None:
            raise
        raise AutopeftError(
            f"{path}, line {mark.line + 1}: not valid YAML ({getattr(cause, 'problem', None) or reason(error)})"
        ) from cause
    if not isinstance(data, dict):
        raise AutopeftError(f"{path}: expected 'key: value' lines, found {'nothing' if data is None else 'no mapping'}")
    check_plain(data, str(path), _MOST_VALUES)
    return data


def read_value(text: str, where: str) -> Any:
    """The plain value that a short YAML text stands for: `5`, `1e-4`, `[a, b]`, `{name: tpe}`."""
    with door(where, "not valid YAML"):
        _check_events(text)
        value = yaml.load(text, Loader=_Loader)
    check_plain(value, where, _MOST_VALUES)
    return value


def _check_events(text: str) -> None:
    """`YAMLError` for what would take long to build, found while nothing is built.

    Aliases count as what they stand for: nine of nine of nine are few characters, and millions of values.
    """
    count = 0
    sizes: dict[str | None, int] = {}
    inside: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_Parser):
        problem = None
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                problem = f"alias '{event.anchor}' of nothing before it, or of what it stands in"
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.NodeEvent):
            problem = f"anchor '{event.anchor}' twice" if event.anchor in sizes else _problem(event)
            if isinstance(event, yaml.CollectionStartEvent):
                inside.append((event.anchor, count))
            elif event.anchor is not None:
                sizes[event.anchor] = 1
            count += 1
        if len(inside) > MOST_LEVELS:
            problem = f"nested more than {MOST_LEVELS} levels deep"
        if count > _MOST_VALUES:
            problem = f"more than {_MOST_VALUES:,} values, aliases written out"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=cast(Any, event.start_mark))


def _problem(event: yaml.NodeEvent) -> str | None:
    """What is wrong with one value as it is written."""
    tag = getattr(event, "tag", None)
    if tag not in (None, "!") and tag not in _TAGS:
        return f"type '{tag.removeprefix(_TAG)}' is not used here; write plain values"
    value = getattr(event, "value", "")
    if len(value) > _MOST_CHARACTERS:
        return f"a value of {len(value):,} characters"
    return None


def parse(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """`data` as a `model`; `AutopeftError("<where>: <path>: <what>")` for the first thing that is wrong."""
    check_plain(data, where, _MOST_VALUES)
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise AutopeftError(explain(error, model, where)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first complaint of a pydantic error as one line: place, what is wrong, the nearest known key."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"] if not _is_kind(str(part))]
    place = ".".join(path)
    head = f"{where}: {place}" if place else where
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        return f"{head}: unknown key; {suggest(path[-1], known)}" if known else f"{head}: unknown key"
    if first["type"] == "missing":
        field = _fields_at(model, path[:-1]).get(path[-1])
        return f"{head}: missing; give {field.description}" if field and field.description else f"{head}: missing"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if first["type"] == "model_type":
        message = "expected a mapping of options"
    said = [] if isinstance(first["input"], (dict, BaseModel)) else [f"given: {shown(first['input'])}"]
    field = _fields_at(model, path[:-1]).get(path[-1]) if path and first["type"].endswith("_type") else None
    said += [f"{path[-1]}: {field.description}"] if field and field.description else []
    return f"{head}: {message}" + (f" ({'; '.join(said)})" if said else "")


def _is_kind(part: str) -> bool:
    """Whether a part of a place is no key but one of the kinds that a value may be of, as pydantic names them."""
    return part in ("str", "int", "float", "bool") or "[" in part


def _fields_at(model: type[BaseModel], path: list[str]) -> Mapping[str, FieldInfo]:
    """The fields of the sub-model that `path` leads to from `model`; empty when it leads elsewhere."""
    for part in path:
        field = model.model_fields.get(part)
        nested = (
            [a for a in _unfold(field.annotation) if isinstance(a, type) and issubclass(a, BaseModel)] if field else []
        )
        if not nested:
            return {}
        model = nested[0]
    return model.model_fields


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


def with_texts(value: Any) -> Any:
    """The same plain data with paths as texts: from Python a model, a file or a folder is often a `pathlib.Path`."""
    if isinstance(value, PathLike):
        return str(value)
    if isinstance(value, Mapping):
        return {key: with_texts(inner) for key, inner in value.items()}
    return [with_texts(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def check_path(value: Any, what: str) -> None:
    """`AutopeftError` unless an argument can be a path; `what` it should be."""
    if not isinstance(value, (str, PathLike)):
        raise AutopeftError(f"expected {what}, not {shown(value)}")


def check_whole(value: Any, name: str, least: int, most: int) -> None:
    """`AutopeftError` unless an argument is a whole number within these bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise AutopeftError(f"{name}: expected a whole number from {least} to {most}, not {shown(value)}")
