"""A conversation as one text, and which of its characters are scored.

Most chat templates do not mark what the assistant writes. A turn is found by what the template makes of other turns:
of the turns before it and the assistant's header (a beginning of the whole), of those up to it, and of all turns with
another text in its place. Where these do not fit together, as the template writes a turn in another way when more turns
follow (Qwen3 takes thoughts out), the turn is not scored: a model that is asked would have to write something else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.errors import AutopeftError
from autopeft.formats._conversation import Conversation, Turn
from autopeft.formats._templates import rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Private characters, of which one that a text lacks takes a turn's place.
_STAND_INS = [chr(0xE000 + i) for i in range(64)]


@dataclass(frozen=True)
class Rendered:
    """The text; its scored characters, as [start, end); whether the token that ends a text is to follow, scored.

    `rewritten`: turns that were to be scored, and that the template writes otherwise when more turns follow.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    open: bool
    rewritten: int = 0


def rendered_parts(conversation: Conversation) -> Rendered:
    """Parts follow each other as they are; the text is ended where its last part is scored."""
    spans, at = [], 0
    for part in conversation.parts:
        if part.scored:
            spans.append((at, at + len(part.text)))
        at += len(part.text)
    return Rendered("".join(part.text for part in conversation.parts), tuple(spans), conversation.parts[-1].scored)


def rendered_turns(
    conversation: Conversation, tokenizer: PreTrainedTokenizerBase, special: re.Pattern[str]
) -> Rendered:
    """Turns as the chat template writes them; `special` finds the tokenizer's special tokens in a text.

    What is scored of a turn is all that the model has to write after the header: the text, what the template puts
    before it (an empty thought), and what ends it, but for white space.
    """
    turns = conversation.turns
    whole = rendered(tokenizer, _messages(turns))
    if all(turn.scored for turn in turns):
        return Rendered(whole, ((0, len(whole)),), not _ended(whole, special))
    finder = _Finder(turns, tokenizer, whole, special)
    found = [finder.span(i) for i, turn in enumerate(turns) if turn.scored]
    spans = tuple(span for span in found if span is not None)
    last = bool(spans) and turns[-1].scored and found[-1] is not None
    return Rendered(whole, spans, last and not finder.ended, found.count(None))


@dataclass
class _Finder:
    turns: Sequence[Turn]
    tokenizer: PreTrainedTokenizerBase
    whole: str
    special: re.Pattern[str]
    ended: bool = False

    def span(self, i: int) -> tuple[int, int] | None:
        """The characters of turn i that are scored; None where the template writes it otherwise. Sets `ended`."""
        turn = self.turns[i]
        before = self._rendered(i, asking=turn.role == "assistant")
        if before is not None and not self.whole.startswith(before):
            before = None
        upto = self.whole if i == len(self.turns) - 1 else self._rendered(i + 1)
        if upto is None:
            return None
        text = self._text(i, before)
        same = _common(self.whole, upto)
        if text is None or same < text[1]:
            return None
        end = self._end(text[1], same, same == len(upto))
        self.ended = end > text[1]
        return self._start(i, before, text[0]), end

    def _text(self, i: int, before: str | None) -> tuple[int, int] | None:
        """Where the template writes the text itself; None where it does not."""
        content = self.turns[i].content
        if before is not None and content and self.whole.startswith(content, len(before)):
            return len(before), len(before) + len(content)
        stand_in = next(one for one in _STAND_INS if one not in self.whole)
        turns = [*self.turns[:i], Turn(self.turns[i].role, stand_in), *self.turns[i + 1 :]]
        try:
            other = rendered(self.tokenizer, _messages(turns))
        except AutopeftError:
            return None
        if stand_in not in other:
            return None
        start = _common(self.whole, other)
        return start, max(start, len(self.whole) - _common(self.whole[::-1], other[::-1]))

    def _start(self, i: int, before: str | None, text: int) -> int:
        """After the assistant's header, where the template has one to ask with; else where the text begins."""
        if before is None or self.turns[i].role != "assistant" or len(before) > text:
            return text
        # A template without regard to `asking` writes the header as a part of the turn; white space is no header.
        header = self.whole[len(before) : text].strip() and before == self._rendered(i)
        return text if header else len(before)

    def _end(self, text: int, same: int, exact: bool) -> int:
        """After what ends a turn whose text ends at `text`; up to `same` the whole is what the turns up to it are."""
        if exact:
            return text + len(self.whole[text:same].rstrip())
        ends = [found.end() for found in self.special.finditer(self.whole, text) if found.end() <= same]
        return ends[0] if ends else text

    def _rendered(self, count: int, asking: bool = False) -> str | None:
        """The first turns; None where the template refuses these alone."""
        try:
            return rendered(self.tokenizer, _messages(self.turns[:count]), asking)
        except AutopeftError:
            return None


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike, by halving: comparing slices is fast."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if one[:middle] == other[:middle] else (least, middle - 1)
    return least


def _ended(text: str, special: re.Pattern[str]) -> bool:
    """Whether a special token is the last of a text, but for white space."""
    text = text.rstrip()
    return any(found.end() == len(text) for found in special.finditer(text))
