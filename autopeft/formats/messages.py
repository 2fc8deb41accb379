"""Messages with roles, as OpenAI's and most chat data sets have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from autopeft.formats._base import Format, Score
from autopeft.formats._conversation import Conversation
from autopeft.formats._fields import turns


class Messages(Format):
    """`messages: [{role, content}, ...]`; the assistant's are scored, but for those of `weight` 0."""

    name: ClassVar[str] = "messages"
    description: ClassVar[str] = "messages: [{role, content}, ...]"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {"messages": ("messages",)}
    more: ClassVar[Mapping[str, Sequence[str]]] = {"system": ("system",)}
    score: ClassVar[Score] = "assistant"

    @classmethod
    def read(cls, row: Mapping[str, Any], where: str) -> Conversation:
        """The turns."""
        return Conversation(tuple(turns(row, "messages", where)))
