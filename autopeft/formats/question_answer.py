"""Questions and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from autopeft.formats._base import Format, Score
from autopeft.formats._conversation import Conversation, Turn
from autopeft.formats._fields import text


class QuestionAnswer(Format):
    """`question` and `answer`: the user's turn and the assistant's."""

    name: ClassVar[str] = "question_answer"
    description: ClassVar[str] = "question and answer, or query and response"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "question": ("question", "query"),
        "answer": ("answer", "response"),
    }
    more: ClassVar[Mapping[str, Sequence[str]]] = {"system": ("system", "system_prompt")}
    score: ClassVar[Score] = "assistant"

    @classmethod
    def read(cls, row: Mapping[str, Any], where: str) -> Conversation:
        """Two turns."""
        return Conversation(
            (Turn("user", text(row, "question", where)), Turn("assistant", text(row, "answer", where), True))
        )
