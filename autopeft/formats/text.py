"""Plain texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from autopeft.formats import _fields
from autopeft.formats._base import Format, Score
from autopeft.formats._conversation import Conversation, Part


class Text(Format):
    """`text`: all of it is scored."""

    name: ClassVar[str] = "text"
    description: ClassVar[str] = "text, all of which is scored"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {"text": ("text",)}
    score: ClassVar[Score] = "all"

    @classmethod
    def read(cls, row: Mapping[str, Any], where: str) -> Conversation:
        """One part."""
        return Conversation(parts=(Part(_fields.text(row, "text", where), scored=True),))
