"""What a field of a row holds: a text, or a list of messages, or what a person should mend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from autopeft.cells import plain, shown
from autopeft.errors import AutopeftError, suggest
from autopeft.formats._conversation import ROLES, Turn

_ALIASES = {
    "human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "prompter": "user",
}  # fmt: skip
_TOOLS = ("tool", "tools", "function", "function_call", "observation", "ipython", "tool_call", "tool_response")
#: What turns may hold beside their text, and nothing here can train.
_CALLS = ("tool_calls", "function_call", "tool_call_id")
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")


def text(row: Mapping[str, Any], column: str, where: str) -> str:
    """The text in a column; `AutopeftError`, starting with `where`, where there is none."""
    if row.get(column) is None:
        raise AutopeftError(f"{where}: column '{column}' is empty; mend the row, or remove it")
    return content(row[column], f"{where}: column '{column}'")


def optional_text(row: Mapping[str, Any], column: str, where: str) -> str:
    """The same, or nothing where it is absent, null or blank."""
    found = "" if row.get(column) is None else content(row[column], f"{where}: column '{column}'")
    return found if found.strip() else ""


def content(value: Any, where: str) -> str:
    """A text, or the texts of a list of parts, one after another; `AutopeftError` for pictures, numbers and others."""
    value = plain(value)
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "".join(_part(part, f"{where}, part {number}") for number, part in enumerate(value, 1))
    what = "is empty" if value is None else f"holds no text but {shown(value)}"
    raise AutopeftError(f"{where} {what}; write a text")


def _part(part: Any, where: str) -> str:
    part = plain(part)
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind in ("text", None) and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(kind, str) and kind != "text":
        raise AutopeftError(f"{where} is of the type {shown(kind)}, and texts only can be trained; remove the row")
    raise AutopeftError(f"{where} holds no text but {shown(part)}; write a text")


def listed(value: Any, where: str) -> list[Any]:
    """The items of a list, of one in JSON (in tables), or of an object of lists; `AutopeftError` where it is none."""
    value = plain(value)
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise AutopeftError(f"{where} holds broken JSON ({str(error)[:80]}); mend the row") from error
    if isinstance(value, Mapping) and value and all(isinstance(one, (list, tuple)) for one in value.values()):
        size = {len(one) for one in value.values()}
        if len(size) == 1:
            return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    if isinstance(value, (list, tuple)):
        return list(value)
    what = "is empty" if value is None or value == "" else f"holds no list but {shown(value)}"
    raise AutopeftError(f"{where} {what}; write a list of messages")


def turns(row: Mapping[str, Any], column: str, where: str, role: str = "role", said: str = "content") -> list[Turn]:
    """The messages in a column as turns; those of the assistant are scored, where their `weight` is not 0.

    `role` and `said`: what messages call these. `AutopeftError`, starting with `where`, names the turn that is wrong.
    """
    if row.get(column) is None:
        raise AutopeftError(f"{where}: column '{column}' is empty; mend the row, or remove it")
    items = listed(row[column], f"{where}: column '{column}'")
    if not items:
        raise AutopeftError(f"{where}: column '{column}' holds no message; add some, or remove the row")
    return [
        _turn(item, role, said, f"{where}: column '{column}', turn {number}") for number, item in enumerate(items, 1)
    ]


def _turn(item: Any, role: str, said: str, where: str) -> Turn:
    item = plain(item)
    if not isinstance(item, Mapping):
        raise AutopeftError(f"{where} is {shown(item)}; write an object of '{role}' and '{said}'")
    for key in (role, said):
        if key not in item:
            raise AutopeftError(f"{where} has no '{key}'; {suggest(key, map(str, item))}")
    own = _role(item[role], f"{where}: '{role}'")
    for key in _CALLS:
        if item.get(key):
            raise AutopeftError(f"{where} has '{key}', and calls of tools cannot be trained; remove the row")
    for key in _THOUGHTS:
        if item.get(key):
            raise AutopeftError(
                f"{where} has '{key}', which not every template shows; put it into '{said}', as the template has it"
            )
    return Turn(own, content(item[said], f"{where}: '{said}'"), own == "assistant" and _weight(item, where))


def _role(value: Any, where: str) -> str:
    name = value.strip().lower() if isinstance(value, str) else ""
    if name in _TOOLS:
        raise AutopeftError(f"{where} is {shown(value)}, and calls of tools cannot be trained; remove the row")
    name = _ALIASES.get(name, name)
    if name not in ROLES:
        raise AutopeftError(f"{where} is {shown(value)}; {suggest(value, [*ROLES, *_ALIASES])}")
    return name


def _weight(item: Mapping[str, Any], where: str) -> bool:
    """Whether a turn is trained on: `weight` 0 (as OpenAI's files have it) says no."""
    value = item.get("weight")
    if value is None or (isinstance(value, (int, float)) and value in (0, 1)):
        return value is None or bool(value)
    raise AutopeftError(f"{where}: 'weight' is {shown(value)}; write 0 or 1")
