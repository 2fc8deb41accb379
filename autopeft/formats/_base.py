"""What a format is: the columns that it is known by, and how a row of them becomes a conversation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from autopeft.errors import AutopeftError
from autopeft.formats._conversation import Conversation, Part, Turn
from autopeft.formats._fields import optional_text

Score = Literal["completion", "assistant", "last", "all"]


@dataclass(frozen=True)
class Options:
    """What the user chose: what is scored (None: the format's own), and a system turn for rows that have none."""

    score: Score | None = None
    system: str | None = None


class Format(ABC):
    """A kind of rows: a plug-in gives `name`, `description`, `columns` and `read`.

    `columns`: what the format calls its columns, each with the names that it is known by; a row has one of each.
    `more`: the same of columns that may be absent. `score`: what is scored where the user does not say it.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    columns: ClassVar[Mapping[str, Sequence[str]]]
    more: ClassVar[Mapping[str, Sequence[str]]] = {}
    score: ClassVar[Score] = "completion"

    @classmethod
    def names(cls) -> set[str]:
        """All names of columns that it knows."""
        return {name for names in (*cls.columns.values(), *cls.more.values()) for name in names}

    @classmethod
    @abstractmethod
    def read(cls, row: Mapping[str, Any], where: str) -> Conversation:
        """The conversation in a row, whose keys are the format's own names; the last piece is scored, or more.

        `AutopeftError`, starting with `where` and naming the column, for what is wrong in it.
        """

    @classmethod
    def conversation(cls, row: Mapping[str, Any], options: Options, where: str) -> Conversation:
        """The same with what the user chose to be scored, and the system turn."""
        read = cls.read(row, where)
        if read.turns:
            return _with_system(_chosen(read, options.score or cls.score, where), row, options, where)
        if options.system is not None:
            raise AutopeftError(
                f"{where}: 'system' is for turns, and rows of the format '{cls.name}' have none; leave it out"
            )
        if options.score == "assistant":
            raise AutopeftError(
                f"{where}: 'score: assistant' is for turns, and rows of the format '{cls.name}' have none; "
                "take completion or all"
            )
        return _all(read) if options.score == "all" else read


def _chosen(read: Conversation, score: Score, where: str) -> Conversation:
    """Of turns, those that are scored: of the ones that the format offers."""
    if score == "all":
        return _all(read)
    offered = [i for i, turn in enumerate(read.turns) if turn.scored]
    if not offered:
        raise AutopeftError(f"{where}: no turn of the assistant is to be learned; add one, or remove the row")
    if score == "last":
        offered = offered[-1:]
    return Conversation(tuple(replace(turn, scored=i in offered) for i, turn in enumerate(read.turns)))


def _all(read: Conversation) -> Conversation:
    return Conversation(
        tuple(replace(turn, scored=True) for turn in read.turns), tuple(Part(part.text, True) for part in read.parts)
    )


def _with_system(read: Conversation, row: Mapping[str, Any], options: Options, where: str) -> Conversation:
    """With the row's own system text, or the user's for rows without one."""
    own = optional_text(row, "system", where)
    if read.turns[0].role == "system":
        if own and own != read.turns[0].content:
            raise AutopeftError(f"{where}: a system turn, and another text in the column 'system'; remove one of them")
        return read
    text = own or options.system
    if not text:
        return read
    return Conversation((Turn("system", text, all(turn.scored for turn in read.turns)), *read.turns))
