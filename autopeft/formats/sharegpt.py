"""Messages as ShareGPT has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from autopeft.formats._base import Format, Score
from autopeft.formats._conversation import Conversation
from autopeft.formats._fields import listed, turns


class ShareGPT(Format):
    """`conversations: [{from: human | gpt | system, value}, ...]`, or with role and content in them."""

    name: ClassVar[str] = "sharegpt"
    description: ClassVar[str] = "conversations: [{from: human, value}, {from: gpt, value}, ...]"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {"conversations": ("conversations", "conversation")}
    more: ClassVar[Mapping[str, Sequence[str]]] = {"system": ("system", "system_prompt")}
    score: ClassVar[Score] = "assistant"

    @classmethod
    def read(cls, row: Mapping[str, Any], where: str) -> Conversation:
        """The turns."""
        if row.get("conversations") is not None:
            items = listed(row["conversations"], f"{where}: column 'conversations'")
            if items and isinstance(items[0], Mapping) and "from" not in items[0] and "role" in items[0]:
                return Conversation(tuple(turns(row, "conversations", where)))
        return Conversation(tuple(turns(row, "conversations", where, "from", "value")))
