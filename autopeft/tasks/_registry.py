"""The tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.config import parse
from autopeft.errors import AutopeftError, suggest
from autopeft.registry import Registry
from autopeft.tasks._base import Task

TASKS: Registry[Task] = Registry("autopeft.tasks", Task, "task")


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
        raise AutopeftError(f"{where}: {error}") from None
    if variant:
        if not kind.variant_field:
            raise AutopeftError(f"{where}: task '{name}' has no variants; write '{name}', not '{name}/{variant}'")
        if kind.variant_field in fields:
            raise AutopeftError(f"{where}: {kind.variant_field}: given twice, as '{name}/{variant}' too")
        fields[kind.variant_field] = variant
    return parse(kind, fields, where)


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
