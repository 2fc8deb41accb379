"""Conversations as two texts, for models that read one and write the other, and their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from autopeft.doors import door, within
from autopeft.errors import AutopeftError
from autopeft.formats._conversation import Conversation
from autopeft.formats._pairs import BREAK
from autopeft.formats._tokens import Question, RowTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Rows that are tokenised together.
_CHUNK = 1_000
_BROKEN = ("cannot be tokenised", "mend the row")
#: What stands between source and target where a row is shown.
_ARROW = " => "


def apart(conversation: Conversation) -> tuple[str, str]:
    """What is read and what is to be written: the last scored piece, and all that stands before it.

    Turns stand on lines of their own, without a chat template: such models have none. `AutopeftError` where nothing
    stands before what is scored.
    """
    pieces = [(turn.content, turn.scored) for turn in conversation.turns]
    between = "\n"
    if not pieces:
        # A decoder alone has to see where a source ends.
        pieces = [(part.text, part.scored) for part in conversation.parts if part.scored or part.text != BREAK]
        between = ""
    last = max((i for i, (_, scored) in enumerate(pieces) if scored), default=-1)
    source = between.join(text for text, _ in pieces[:last]) if last > 0 else ""
    if not source.strip():
        raise AutopeftError(
            "has no text to read before the one to be written; use rows of source and target, or readout: causal_lm"
        )
    if any(scored for _, scored in pieces[:last]) and not conversation.turns:
        raise AutopeftError("'score: all' is for models that read no source; leave it out")
    return source, pieces[last][0]


class PairTokenizer:
    """Turns rows into tokens of a source and a target, each of at most `limit`.

    Both are what the tokenizer makes of a text, and of a text that is a target, with its own special tokens; a target
    ends with the token that ends a text. Between them stands `start`, which a decoder begins with (None: the target's
    own last token).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, start: int | None) -> None:
        self._tokenizer, self._limit, self._start = tokenizer, limit, start
        self._end: int | None = tokenizer.eos_token_id

    @property
    def start(self) -> int:
        """The token that a decoder begins with."""
        row = self._rows(["a"], ["a"])[0]
        return row.ids[row.source or 0]

    def of(self, conversation: Conversation, pieces: bool = False) -> RowTokens:
        """The tokens of one conversation; `pieces`: with its two texts."""
        source, target = apart(conversation)
        return self._rows([source], [target], pieces)[0]

    def rows(self, texts: Sequence[str], where: Callable[[int], str]) -> list[RowTokens]:
        """The tokens of rows in JSON; `where` gives a row's place for a message, by its index."""
        found: list[RowTokens] = []
        for first in range(0, len(texts), _CHUNK):
            chunk, pairs = range(first, min(first + _CHUNK, len(texts))), []
            for i in chunk:
                with within(where(i)):
                    pairs.append(apart(Conversation.from_json(texts[i])))
            try:
                found += self._rows([one for one, _ in pairs], [other for _, other in pairs])
            except AutopeftError:
                for i, pair in zip(chunk, pairs, strict=True):
                    with within(where(i)):
                        self._rows([pair[0]], [pair[1]])
                raise
        return found

    def question(self, conversation: Conversation) -> Question:
        """The source of a conversation, as an encoder reads it."""
        source, _ = apart(conversation)
        with door("the text", *_BROKEN):
            ids: list[int] = self._tokenizer([source])["input_ids"][0]
        kept = _cut(ids, self._limit)
        return Question(kept, self._end, len(ids) - len(kept))

    def _rows(self, sources: Sequence[str], targets: Sequence[str], pieces: bool = False) -> list[RowTokens]:
        with door("the texts", *_BROKEN):
            read: Any = self._tokenizer(list(sources))["input_ids"]
            written: Any = self._tokenizer(text_target=list(targets))["input_ids"]
        shown = [
            ((one + _ARROW, False), (other, True)) if pieces else ()
            for one, other in zip(sources, targets, strict=True)
        ]
        return [self._row(*row) for row in zip(read, written, shown, strict=True)]

    def _row(self, source: list[int], target: list[int], pieces: Any) -> RowTokens:
        ended = target if self._end is None or self._end in target[-2:] else [*target, self._end]
        kept, goal = _cut(source, self._limit), _cut(ended, self._limit)
        start = goal[-1] if self._start is None else self._start
        lost = len(source) - len(kept) + len(ended) - len(goal)
        scored = [False] * (len(kept) + 1) + [True] * len(goal)
        return RowTokens([*kept, start, *goal], scored, lost, pieces=pieces, source=len(kept))


def _cut(ids: list[int], limit: int) -> list[int]:
    """At most so many, the last one, which ends the text, among them."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
