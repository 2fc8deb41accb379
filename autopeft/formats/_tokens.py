"""Conversations as token ids, and which tokens are scored."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autopeft.doors import door, within
from autopeft.errors import AutopeftError
from autopeft.formats._conversation import Conversation
from autopeft.formats._rendering import Rendered, rendered_parts, rendered_turns
from autopeft.formats._templates import leading, with_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Characters that are tokenised together at most, but for a longer row: offsets take memory.
_MOST_CHARACTERS = 2_000_000
#: Characters in a row that a tokenizer may lack.
_MOST_UNKNOWN = 1_000
_BROKEN = ("cannot be tokenised", "mend the row")


@dataclass(frozen=True)
class RowTokens:
    """A row's token ids, cut on the right at the limit, and for each whether it is a target (the first never is).

    `cut`: tokens lost. `dropped_reason`: why nothing can be learned from the row; "" where something can. `pieces`: the
    text in runs of (text, scored) as the ids stand for it, cut too, where it was asked for. `rewritten`: turns that
    were to be scored and cannot be (see `Rendered`). `inside`: special tokens that the row's own texts hold. `source`:
    how many of the ids are of a text that an encoder reads; after these comes what its decoder begins with.
    """

    ids: list[int]
    scored: list[bool]
    cut: int = 0
    dropped_reason: str = ""
    pieces: tuple[tuple[str, bool], ...] = ()
    rewritten: int = 0
    inside: int = 0
    source: int = 0


@dataclass(frozen=True)
class Question:
    """What a model is given to write the last piece of a conversation, and the token that ends what it writes.

    `cut`: tokens lost.
    """

    ids: list[int]
    stop: int | None
    cut: int = 0


class RowTokenizer:
    """Turns rows into tokens, `limit` at most each.

    The text is tokenised as a whole, without the tokenizer's own special tokens where a chat template wrote it, as
    templates write them themselves. Which tokens are scored follows from their characters: those that have any of a
    scored turn or part.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
        if not tokenizer.is_fast:
            raise AutopeftError("the tokenizer does not tell the places of its tokens; use a fast one (tokenizer.json)")
        self._tokenizer, self._limit = with_template(tokenizer, None), limit
        self._lead = [int(i) for i in tokenizer.convert_tokens_to_ids(leading(tokenizer))]
        self._end: int | None = tokenizer.eos_token_id
        self._of_bytes = "▁" not in "".join(tokenizer.tokenize("a a"))
        # Not all that was added: Gemma has line breaks among these.
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = {*tokenizer.all_special_tokens, *added} - {""}
        longest_first = sorted(special, key=lambda token: (-len(token), token))
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @property
    def template(self) -> str:
        """The chat template that turns are written with."""
        return str(self._tokenizer.chat_template)

    def of(self, conversation: Conversation, pieces: bool = False) -> RowTokens:
        """The tokens of one conversation; `pieces`: with its text."""
        shown = self._rendered(conversation)
        with door("the text", *_BROKEN):
            encoded: Any = self._tokenizer(shown.text, add_special_tokens=False, return_offsets_mapping=True)
        return self._row(conversation, shown, encoded["input_ids"], encoded["offset_mapping"], pieces)

    def rows(self, texts: Sequence[str], where: Callable[[int], str]) -> list[RowTokens]:
        """The tokens of rows in JSON; `where` gives a row's place for a message, by its index."""
        found: list[RowTokens] = []
        for chunk in _chunks(texts):
            read, shown = [], []
            for i in chunk:
                with within(where(i)):
                    read.append(Conversation.from_json(texts[i]))
                    shown.append(self._rendered(read[-1]))
            try:
                with door("the texts", *_BROKEN):
                    encoded: Any = self._tokenizer(
                        [one.text for one in shown], add_special_tokens=False, return_offsets_mapping=True
                    )
            except AutopeftError:
                for i, conversation in zip(chunk, read, strict=True):
                    with within(where(i)):
                        self.of(conversation)
                raise
            columns = zip(read, shown, encoded["input_ids"], encoded["offset_mapping"], strict=True)
            found += [self._row(*column) for column in columns]
        return found

    def question(self, conversation: Conversation) -> Question | None:
        """What stands before a conversation's last piece, which alone is scored; None where that is not to be said.

        Of too many tokens the last are kept: there stands what asks for an answer.
        """
        shown = self._rendered(conversation)
        if not shown.spans:
            return None
        start, end = shown.spans[-1]
        with door("the text", *_BROKEN):
            ids = [int(i) for i in self._tokenizer(shown.text[:start], add_special_tokens=False)["input_ids"]]
        if not conversation.turns and ids[: len(self._lead)] != self._lead:
            ids = [*self._lead, *ids]
        kept = ids[-self._limit :]
        ends = [found[0] for found in self._special.finditer(shown.text, start, end) if found.end() == end]
        stop = int(self._tokenizer.convert_tokens_to_ids(ends[0])) if ends else self._end
        return Question(kept, stop, len(ids) - len(kept)) if kept else None

    def _rendered(self, conversation: Conversation) -> Rendered:
        if conversation.turns:
            return rendered_turns(conversation, self._tokenizer, self._special)
        return rendered_parts(conversation)

    def _row(
        self,
        conversation: Conversation,
        shown: Rendered,
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        pieces: bool = False,
    ) -> RowTokens:
        """The row of a text's tokens, with what stands before and after it."""
        offsets = self._places(shown.text, ids, offsets)
        lead = [] if conversation.turns or list(ids[: len(self._lead)]) == self._lead else self._lead
        scored = [False] * len(lead) + _covered(offsets, shown.spans)
        whole = [*lead, *ids]
        if shown.open and self._end is not None and whole[-1:] != [self._end]:
            whole.append(self._end)
            scored.append(True)
        scored[:1] = [False] * len(scored[:1])  # nothing stands before it to predict it from
        kept, flags = whole[: self._limit], scored[: self._limit]
        texts = [turn.content for turn in conversation.turns] or [part.text for part in conversation.parts]
        return RowTokens(
            kept, flags, len(whole) - len(kept), self._lost(scored, flags, shown),
            self._pieces(shown.text, offsets, kept, flags, len(lead)) if pieces else (),
            shown.rewritten, sum(len(self._special.findall(text)) for text in texts),
        )  # fmt: skip

    def _places(self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """The characters of each token, also where the tokenizer lost its place.

        One that lacks a character may pass over it, and counts all that follows from too early on. That shows at the
        last token. Tokens of bytes lack none.
        """
        if self._of_bytes or not offsets:
            return offsets
        start, end = offsets[-1]
        last = str(self._tokenizer.convert_ids_to_tokens(int(ids[-1])))
        if last.replace("▁", " ").strip() == text[start:end].strip() and end >= len(text.rstrip()):
            return offsets
        return placed(text, self._tokenizer.convert_ids_to_tokens(list(ids))) or offsets

    def _lost(self, scored: Sequence[bool], kept: Sequence[bool], shown: Rendered) -> str:
        """Why a row has no target, or nothing."""
        if any(kept):
            return ""
        if any(scored):
            return f"all that is scored comes after the first {self._limit:,} tokens"
        if shown.rewritten:
            return "the chat template writes the turns to be scored otherwise when others follow"
        return "it has no token to be scored"

    def _pieces(
        self, text: str, offsets: Sequence[tuple[int, int]], ids: Sequence[int], flags: Sequence[bool], lead: int
    ) -> tuple[tuple[str, bool], ...]:
        """Runs of text that are scored or not, of the tokens that are kept."""
        found: list[tuple[str, bool]] = []
        for i, flag in enumerate(flags):
            if lead <= i < lead + len(offsets):
                start = 0 if i == lead else offsets[i - lead - 1][1]
                own = text[min(start, offsets[i - lead][1]) : offsets[i - lead][1]]
            else:
                own = str(self._tokenizer.convert_ids_to_tokens(ids[i]))
            if found and found[-1][1] == flag:
                found[-1] = (found[-1][0] + own, flag)
            else:
                found.append((own, flag))
        return tuple(piece for piece in found if piece[0])


def placed(text: str, tokens: Sequence[str]) -> list[tuple[int, int]] | None:
    """Where tokens (with `▁` for a space) stand in a text that has other characters between theirs; None if nowhere."""
    found, at = [], 0
    for i, token in enumerate(tokens):
        own = token.replace("▁", " ")
        if i == 0 and not text.startswith(own):
            own = own.removeprefix(" ")
        places = []
        for character in own:
            at = text.find(character, at, at + _MOST_UNKNOWN) + 1
            if at == 0:
                return None
            places.append(at)
        found.append((places[0] - 1, at) if places else (at, at))
    return found


def _covered(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Which tokens have a character in any of the spans, which rise and do not overlap.

    Some tokenizers leave white space out of a token's characters: one without any has those since the token before.
    """
    ends = [end for _, end in spans]
    found, before = [], 0
    for start, end in offsets:
        first = start if start < end else min(before, end)
        i = bisect.bisect_right(ends, first)
        found.append(i < len(spans) and spans[i][0] < end)
        before = max(before, end)
    return found


def _chunks(texts: Sequence[str]) -> Iterable[range]:
    """Rows of about so many characters."""
    start = size = 0
    for i, text in enumerate(texts):
        if i > start and size + len(text) > _MOST_CHARACTERS:
            yield range(start, i)
            start, size = i, 0
        size += len(text)
    if start < len(texts):
        yield range(start, len(texts))
