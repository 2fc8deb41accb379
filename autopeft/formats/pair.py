"""A text and the one to make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from autopeft.formats._base import Format
from autopeft.formats._conversation import Conversation
from autopeft.formats._fields import text
from autopeft.formats._pairs import pair_of


class Pair(Format):
    """`source` and `target`: plain texts on two lines."""

    name: ClassVar[str] = "pair"
    description: ClassVar[str] = "source and target"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {"source": ("source", "src"), "target": ("target", "tgt")}

    @classmethod
    def read(cls, row: Mapping[str, Any], where: str) -> Conversation:
        """Two parts."""
        return pair_of(text(row, "source", where), text(row, "target", where))
