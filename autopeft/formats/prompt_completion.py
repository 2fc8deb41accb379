"""Prompts and their completions: texts, or lists of messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from autopeft.cells import plain
from autopeft.errors import AutopeftError
from autopeft.formats._base import Format, Score
from autopeft.formats._conversation import Conversation, Part
from autopeft.formats._fields import text, turns


class PromptCompletion(Format):
    """`prompt` and `completion`. Texts follow each other as they are, with no template and nothing between.

    Lists of messages are turns, and the assistant's of the completion are scored.
    """

    name: ClassVar[str] = "prompt_completion"
    description: ClassVar[str] = "prompt and completion: texts, which follow each other as they are, or messages"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "prompt": ("prompt",),
        "completion": ("completion", "response"),
    }
    score: ClassVar[Score] = "completion"

    @classmethod
    def read(cls, row: Mapping[str, Any], where: str) -> Conversation:
        """Parts or turns, as the row has it."""
        kinds = [_are_messages(row.get(column)) for column in ("prompt", "completion")]
        if not any(kinds):
            return Conversation(
                parts=(Part(text(row, "prompt", where)), Part(text(row, "completion", where), scored=True))
            )
        if not all(kinds):
            raise AutopeftError(f"{where}: columns 'prompt' and 'completion' are a text and messages; write both alike")
        before = [replace(turn, scored=False) for turn in turns(row, "prompt", where)]
        return Conversation((*before, *turns(row, "completion", where)))


def _are_messages(value: Any) -> bool:
    """Whether these are objects, and not a text or the parts of one."""
    value = plain(value)
    if isinstance(value, str):
        return value.lstrip().startswith(('[{"role"', "[{'role'", '[{"content"'))
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return isinstance(first, Mapping) and "type" not in first
