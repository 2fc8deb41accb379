"""The value that all formats lead to: turns of a chat, or plain parts of a text, and which of them are scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from autopeft.cells import clean
from autopeft.doors import door

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """What one side says; `role` is system, user or assistant. A model learns to write what is `scored`."""

    role: str
    content: str
    scored: bool = False


@dataclass(frozen=True)
class Part:
    """A piece of a text without roles, such as a prompt or its completion."""

    text: str
    scored: bool = False


@dataclass(frozen=True)
class Conversation:
    """Turns for a chat template, or parts that follow each other as they are: the one or the other, not both.

    JSON in both directions; the JSON of equal conversations is equal to the character, as data sets are compared by it.
    """

    turns: tuple[Turn, ...] = ()
    parts: tuple[Part, ...] = ()

    def to_json(self) -> str:
        """`{"turns": [{"role", "content", "scored"}, ...]}`, or `{"parts": [{"text", "scored"}, ...]}`."""
        pieces: Sequence[Turn | Part] = self.turns or self.parts
        key = "turns" if self.turns else "parts"
        return json.dumps({key: [asdict(piece) for piece in pieces]}, ensure_ascii=False, separators=(",", ":"))

    @property
    def asked(self) -> Conversation | None:
        """It up to the last turn of the assistant, or the last part, that is scored, which alone is then.

        None where nothing stands before that.
        """
        for last, turn in reversed(list(enumerate(self.turns))):
            if turn.scored and turn.role == "assistant":
                before = tuple(replace(one, scored=False) for one in self.turns[:last])
                return Conversation((*before, turn)) if last else None
        scored = [i for i, part in enumerate(self.parts) if part.scored]
        if not scored or not "".join(part.text for part in self.parts[: scored[-1]]).strip():
            return None
        pieces = tuple(replace(one, scored=False) for one in self.parts[: scored[-1]])
        return Conversation((), (*pieces, self.parts[scored[-1]]))

    @property
    def answer(self) -> str:
        """The text of its last piece."""
        return self.turns[-1].content if self.turns else self.parts[-1].text

    @classmethod
    def from_json(cls, text: str) -> Conversation:
        """What `to_json` wrote; `AutopeftError` for anything else. Lone surrogates become U+FFFD."""
        with door("a row", "holds no conversation"):
            data = json.loads(text)
            turns = tuple(
                Turn(str(turn["role"]), clean(turn["content"]), bool(turn["scored"])) for turn in data.get("turns", ())
            )
            parts = tuple(Part(clean(part["text"]), bool(part["scored"])) for part in data.get("parts", ()))
            if bool(turns) == bool(parts):
                raise ValueError("neither turns nor parts, or both")
            return cls(turns, parts)
