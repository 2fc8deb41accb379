"""Instructions with an input, as Alpaca has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from autopeft.cells import shown
from autopeft.errors import AutopeftError
from autopeft.formats._base import Format, Score
from autopeft.formats._conversation import Conversation, Turn
from autopeft.formats._fields import content, listed, optional_text, text


class Alpaca(Format):
    """`instruction`, `input`, `output`: the user says instruction and input, on lines of their own.

    `history: [[user, assistant], ...]` are turns before that, which are scored too.
    """

    name: ClassVar[str] = "alpaca"
    description: ClassVar[str] = "instruction, input and output; history before them"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "instruction": ("instruction",),
        "output": ("output", "response"),
    }
    more: ClassVar[Mapping[str, Sequence[str]]] = {
        "input": ("input", "context"),
        "system": ("system", "system_prompt"),
        "history": ("history",),
    }
    score: ClassVar[Score] = "assistant"

    @classmethod
    def read(cls, row: Mapping[str, Any], where: str) -> Conversation:
        """The turns."""
        asked = text(row, "instruction", where)
        if own := optional_text(row, "input", where):
            asked = f"{asked}\n{own}"
        last = (Turn("user", asked), Turn("assistant", text(row, "output", where), True))
        return Conversation((*_history(row, f"{where}: column 'history'"), *last))


def _history(row: Mapping[str, Any], where: str) -> list[Turn]:
    found: list[Turn] = []
    for number, pair in enumerate(listed(row["history"], where) if row.get("history") else (), 1):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise AutopeftError(f"{where}, item {number} is {shown(pair)}; write [what was asked, what was answered]")
        found += (
            Turn("user", content(pair[0], f"{where}, item {number}")),
            Turn("assistant", content(pair[1], f"{where}, item {number}"), True),
        )
    return found
