"""What a user should see before a search: one example with what is scored in it, and how many tokens there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from autopeft.formats._apart import PairTokenizer
from autopeft.formats._conversation import Conversation
from autopeft.formats._templates import built_in
from autopeft.formats._tokens import RowTokenizer, RowTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: How the scored part of an example is marked, and characters of each piece that are shown.
_OPEN, _CLOSE = "[[", "]]"
_SHOWN = 600


@dataclass(frozen=True)
class Example:
    """A row as the model sees it, in runs of (text, scored), with its tokens: all, scored, and those cut off."""

    pieces: tuple[tuple[str, bool], ...]
    tokens: int
    scored: int
    cut: int

    @property
    def text(self) -> str:
        """The text with the scored runs between `[[` and `]]`; long runs are shortened in their middle."""
        return "".join(f"{_OPEN}{_short(text)}{_CLOSE}" if scored else _short(text) for text, scored in self.pieces)

    def to_json(self) -> dict[str, Any]:
        """Its pieces and counts."""
        pieces = [{"text": text, "scored": scored} for text, scored in self.pieces]
        return {"pieces": pieces, "tokens": self.tokens, "scored": self.scored, "cut": self.cut}


def example_of(texts: Sequence[str], reader: RowTokenizer | PairTokenizer) -> Example:
    """The first of these rows (in JSON) from which something can be learned, else the first."""
    found = (reader.of(Conversation.from_json(text), pieces=True) for text in texts)
    first: RowTokens | None = None
    for row in found:
        first = first or row
        if not row.dropped_reason:
            first = row
            break
    if first is None:
        raise ValueError("no rows")
    return Example(first.pieces, len(first.ids), sum(first.scored), first.cut)


@dataclass(frozen=True)
class Totals:
    """Tokens of a split: rows, those that are cut, those that nothing can be learned from; tokens kept, scored, cut.

    `longest`: tokens of the longest row, with what is cut. `rewritten` and `inside`: rows with any (see `RowTokens`).
    """

    rows: int
    rows_cut: int
    rows_dropped: int
    tokens: int
    scored: int
    cut: int
    longest: int
    rewritten: int
    inside: int

    @classmethod
    def of(cls, rows: Sequence[RowTokens]) -> Self:
        """Those of a split's rows."""
        return cls(
            len(rows), sum(row.cut > 0 for row in rows), sum(bool(row.dropped_reason) for row in rows),
            sum(len(row.ids) for row in rows), sum(sum(row.scored) for row in rows), sum(row.cut for row in rows),
            max((len(row.ids) + row.cut for row in rows), default=0), sum(row.rewritten > 0 for row in rows),
            sum(row.inside > 0 for row in rows),
        )  # fmt: skip

    @property
    def share_cut(self) -> float:
        """Of all tokens, those that are cut off."""
        return self.cut / max(1, self.tokens + self.cut)

    def to_json(self) -> dict[str, Any]:
        """Its counts, and the share that is cut."""
        return {**vars(self), "share_cut": self.share_cut}


def remarks(splits: Mapping[str, Totals], tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterable[str]:
    """What a user should know of how rows (`texts`, in JSON) became tokens, a sentence each; none of no splits."""
    if splits and Conversation.from_json(texts[0]).turns and built_in(tokenizer) == "plain":
        yield (
            "the tokenizer has no chat template: turns are written under '### Instruction:' and '### Response:'; "
            "give another in task.template"
        )
    for split, one in splits.items():
        if one.rewritten:
            yield (
                f"{one.rewritten:,} of {split}'s {one.rows:,} rows have turns that the chat template writes otherwise "
                "when others follow: these are not scored"
            )
        if one.inside:
            yield (
                f"{one.inside:,} of {split}'s {one.rows:,} rows have special tokens of the tokenizer in their own "
                "texts: these are read as such"
            )


def _short(text: str) -> str:
    half = _SHOWN // 2
    return text if len(text) <= _SHOWN else f"{text[:half]} ... {text[-half:]}"
