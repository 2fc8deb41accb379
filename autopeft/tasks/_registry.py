"""The tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from autopeft.config import parse
from autopeft.errors import AutopeftError, suggest
from autopeft.registry import Registry
from autopeft.tasks._base import Task

TASKS: Registry[Task] = Registry("autopeft.tasks", Task, "task")
#: What a name that is none may have been meant for.
_OWN = "rows of your own are {name: files, train: FILE, ...}, a data set of the hub {name: hub, path: NAME, ...}"


def task_from(spec: str | Mapping[str, Any], where: str = "task") -> Task:
    """The task that a configuration asks for; nothing is read yet.

    `spec` is a name (`docstrings`), a name and its variant (`glue/rte`), or a mapping of `name` (either form)
    and the task's own fields. `AutopeftError`, starting with `where`, for anything else.
    """
    name, fields = _name_and_fields(spec, where)
    name, _, variant = name.partition("/")
    try:
        kind = TASKS.get(name)
    except AutopeftError as error:
        raise AutopeftError(f"{where}: {_variant(name) or f'{error}; {_OWN}'}") from None
    if variant:
        if not kind.variant_field:
            raise AutopeftError(f"{where}: task '{name}' has no variants; write '{name}', not '{name}/{variant}'")
        if kind.variant_field in fields:
            raise AutopeftError(f"{where}: {kind.variant_field}: given twice, as '{name}/{variant}' too")
        fields[kind.variant_field] = variant
    return parse(kind, fields, where)


def _variant(name: str) -> str:
    """What to say of a name that is a variant of some task: `sst2` is one of glue's; nothing for another."""
    for kind in TASKS.all().values():
        field = kind.model_fields.get(kind.variant_field)
        if field is not None and name in get_args(field.annotation):
            return f"unknown task '{name}'; did you mean '{kind.name}/{name}'?"
    return ""


def _name_and_fields(spec: object, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping):
        raise AutopeftError(f"{where}: expected a task's name or a mapping with 'name' (given: {spec!r})")
    fields = dict(spec)
    name = fields.pop("name", None)
    if name is None:
        raise AutopeftError(f"{where}: name: missing; {suggest('', TASKS.names())}")
    if not isinstance(name, str):
        raise AutopeftError(f"{where}: name: expected a task's name (given: {name!r})")
    return name, fields
