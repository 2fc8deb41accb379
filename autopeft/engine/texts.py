"""Texts turned into token ids, and refused where a model could not take them: before training, with their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from autopeft.anatomy import InputLimits
from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.formats import Totals
from autopeft.tasks import Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Characters of a long text that are looked at for a token, at first (English has 4 or 5), and how many tokens there
#: must be beyond those that are kept: a word that is cut at its end is other tokens, at most 100 of them.
_CHARACTERS, _MARGIN = 16, 256
_CHUNK = 2_000
_SHOWN = 40
_BROKEN = ("cannot be tokenised", "mend the text")
_Ids = list[list[int]]


@dataclass(frozen=True)
class Encoded:
    """Token and segment ids of N examples (no segments: None), how many were cut, how many texts have no token.

    `dropped`: how many more there were, of which nothing is scored. `totals`: what rows of conversations came to.
    `sources`: how many of each example's tokens an encoder reads.
    """

    ids: _Ids
    types: _Ids | None
    cut: int
    empty: int
    dropped: int = 0
    totals: Totals | None = None
    sources: list[int] | None = None


@dataclass(frozen=True)
class Layout:
    """What a tokenizer puts before, between and after one text or two: (id, segment) pairs; `kinds`: the texts' own."""

    parts: tuple[tuple[tuple[int, int], ...], ...]
    kinds: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, texts: int) -> Self | None:
        """None for tokenizers that don't tell, or do it in no such way."""
        encoded = tokenizer(*["a", "b"][:texts])
        encoding = encoded.encodings[0] if encoded.encodings else None
        parts: list[list[tuple[int, int]]] = [[]]
        kinds: list[int] = []
        for number, kind, text in (
            zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True) if encoding else ()
        ):
            if text is None:
                parts[-1].append((number, kind))
            elif text == len(kinds):
                kinds.append(kind)
                parts.append([])
            elif text != len(kinds) - 1 or parts[-1]:
                return None
        return cls(tuple(map(tuple, parts)), tuple(kinds)) if len(kinds) == texts else None

    def filled(self, texts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        """Token and segment ids of one example."""
        ids, kinds = [i for i, _ in self.parts[0]], [k for _, k in self.parts[0]]
        for own, kind, after in zip(texts, self.kinds, self.parts[1:], strict=True):
            ids += [*own, *(i for i, _ in after)]
            kinds += [kind] * len(own) + [k for _, k in after]
        return ids, kinds


class Reader:
    """Turns splits into token ids, at most `limit` an example; `reason` says where that limit is from.

    The ids are those that the tokenizer gives with `truncation=True`. Its own truncation also makes all that is cut
    away, for pairs in every combination: gigabytes for two long texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, limits: InputLimits | None) -> None:
        self.tokenizer, self.limits = tokenizer, limits
        own = tokenizer.model_max_length
        known = {"training.max_length": max_length, "the tokenizer's model_max_length": own}
        if limits is not None:
            known["the positions that the model has"] = limits.tokens
        self.reason = min(known, key=lambda name: known[name])
        self.limit = int(known[self.reason])
        self.pad_id = _padding(tokenizer, limits)
        #: What a decoder begins with, where an encoder reads the text.
        self.start = None if limits is None else limits.start
        self._right = tokenizer.truncation_side == "right"

    def read(self, name: str, split: Split) -> Encoded:
        """One split; `AutopeftError` with the row that cannot be tokenised, or holds what the model does not know."""
        texts = 1 if split.second is None else 2
        with door("the tokenizer", "cannot be used"):
            special = int(self.tokenizer.num_special_tokens_to_add(pair=texts == 2))
            layout = Layout.of(self.tokenizer, texts) if self.tokenizer.is_fast else None
            typed = "token_type_ids" in self.tokenizer("a")
        if self.limit <= special:
            raise AutopeftError(
                f"{self.reason}: {self.limit} tokens leave no room beside the {special} that the tokenizer adds; "
                "raise training.max_length or take a model of more positions"
            )
        ids: _Ids = []
        types: _Ids = []
        cut = empty = nothing = 0
        for start in range(0, len(split), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(split)))
            pairs = [_texts(split, i) for i in rows]
            columns = self._columns(name, split, rows, pairs)
            for pair, own in zip(pairs, zip(*columns, strict=True), strict=True):
                kept = self._kept(pair, own, self.limit - special)
                cut += sum(kept) < sum(map(len, own))
                nothing += not any(own)
                empty += not any(own) and any(text.strip() for text in pair)
                one, kinds = self._assembled(pair, own, kept, layout)
                # An empty text is no token where a tokenizer adds none of its own, and a model needs at least one.
                ids.append(one or [self._filler()])
                types.append(kinds or [0])
        if name == "train" and nothing == len(ids):
            raise AutopeftError(f"{name}: the tokenizer finds no token in any text; use a tokenizer of their language")
        self.check(name, split, ids, types if typed else [])
        return Encoded(ids, types if typed else None, cut, empty)

    def unknown(self, ids: np.ndarray) -> float:
        """The share of these that stand for what the tokenizer does not know."""
        number = self.tokenizer.unk_token_id
        return 0.0 if number is None else float((ids == number).mean())

    def _columns(self, name: str, split: Split, rows: range, pairs: Sequence[tuple[str, ...]]) -> list[_Ids]:
        """Token ids of the first texts, and of the second ones: of their beginnings, where they are long."""
        short = []
        for i, pair in zip(rows, pairs, strict=True):
            with door(self.where(name, split, i), *_BROKEN):
                short.append([self._beginning(text) for text in pair])
        try:
            with door(name, *_BROKEN):
                return [self._bare(column) for column in zip(*short, strict=True)]
        except AutopeftError:
            for i, parts in zip(rows, short, strict=True):
                with door(self.where(name, split, i), *_BROKEN):
                    self._bare(parts)
            raise

    def _bare(self, texts: Sequence[str]) -> _Ids:
        """Token ids without the tokenizer's own, all of them."""
        found: _Ids = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return found

    def _beginning(self, text: str) -> str:
        """So much of a text that the tokens which are kept end far before it does: a book takes half a minute."""
        enough = self.limit + _MARGIN
        size = _CHARACTERS * enough
        while self._right and size < len(text):
            if len(self._bare([text[:size]])[0]) >= enough:
                return text[:size]
            size *= 8
        return text

    def _kept(self, texts: Sequence[str], ids: Sequence[Sequence[int]], room: int) -> tuple[int, ...]:
        """How many tokens of each are kept: of a pair, the longer one is cut first."""
        if len(ids) == 1:
            return (min(len(ids[0]), room),)
        one, other = map(len, ids)
        if one + other <= room:
            return one, other
        half = room // 2
        if min(one, other) <= half:
            return (one, room - one) if one <= other else (room - other, other)
        if room % 2 and self.tokenizer.is_fast and any(len(text) > self._sure for text in texts):
            one, other = (len(self._bare([text])[0]) for text in texts)
        first = one > other if self.tokenizer.is_fast else True
        return (room - half, half) if first else (half, room - half)

    @property
    def _sure(self) -> int:
        """Characters of texts that are tokenised as a whole."""
        return _CHARACTERS * (self.limit + _MARGIN)

    def _assembled(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]], kept: Sequence[int], layout: Layout | None
    ) -> tuple[list[int], list[int]]:
        """Token and segment ids of an example with what the tokenizer adds."""
        if layout is not None:
            cut = (own[:n] if self._right else own[len(own) - n :] for own, n in zip(ids, kept, strict=True))
            return layout.filled(list(cut))
        encoded: Any = self.tokenizer(*map(self._beginning, texts), truncation=True, max_length=self.limit)
        return encoded["input_ids"], encoded.get("token_type_ids", [])

    def _filler(self) -> int:
        """The token that stands for an empty text."""
        end = self.tokenizer.eos_token_id
        known = end is not None and (self.limits is None or end < self.limits.vocabulary)
        return int(end) if known else self.pad_id

    @staticmethod
    def where(name: str, split: Split, i: int) -> str:
        """A row's place, as a person finds it."""
        text = " ".join(split.first[i][: 2 * _SHOWN].split())
        return f"{split.at(i) or f'{name}, text {i + 1} of {len(split):,}'} ({text[:_SHOWN]!r})"

    def check(self, name: str, split: Split, ids: _Ids, types: _Ids) -> None:
        """`AutopeftError` with the row that holds a token or a segment which the model does not know."""
        if self.limits is None:
            return
        words, segments = self.limits.vocabulary, self.limits.segments
        if (i := _reaching(ids, words)) is not None:
            wrong = next(number for number in ids[i] if number >= words)
            token = self.tokenizer.convert_ids_to_tokens(wrong)
            raise AutopeftError(
                f"{self.where(name, split, i)}: token {token!r:.60} has the number {wrong}, and the model has "
                f"embeddings of {words} only; use the model's own tokenizer, or take the token out of the text"
            )
        if segments is not None and (i := _reaching(types, segments)) is not None:
            raise AutopeftError(
                f"{self.where(name, split, i)}: segment id {max(types[i])}, and the model knows {segments} of them "
                "(type_vocab_size); use the model's own tokenizer"
            )


def spans_of(reader: Reader, split: Split, read: Encoded) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Of each first text: how many tokens of its example stand before its own, and the characters of each of these.

    `AutopeftError` for a tokenizer that does not tell, and for pairs of texts.
    """
    tokenizer = reader.tokenizer
    if split.second is not None:
        raise AutopeftError("labels of words need texts in one column; name one in 'text'")
    layout = Layout.of(tokenizer, 1) if tokenizer.is_fast else None
    if layout is None:
        raise AutopeftError("the tokenizer does not tell the places of its tokens; use a fast one (tokenizer.json)")
    lead, after = map(len, layout.parts)
    for start in range(0, len(split), _CHUNK):
        texts = [reader._beginning(text) for text in split.first[start : start + _CHUNK]]
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        for ids, found in zip(read.ids[start:], encoded["offset_mapping"], strict=False):
            kept = min(len(found), len(ids) - lead - after)
            yield lead, found[:kept] if reader._right else found[len(found) - kept :]


def _padding(tokenizer: PreTrainedTokenizerBase, limits: InputLimits | None) -> int:
    pad = tokenizer.pad_token_id
    if pad is None or (limits is not None and not 0 <= pad < limits.vocabulary):
        raise AutopeftError("the tokenizer has no token to pad with that the model knows; set its pad_token")
    return int(pad)


def _texts(split: Split, i: int) -> tuple[str, ...]:
    return (split.first[i],) if split.second is None else (split.first[i], split.second[i])


def _reaching(rows: Sequence[Sequence[int]], bound: int) -> int | None:
    """The first row that holds a number of at least `bound`."""
    return next((i for i, row in enumerate(rows) if max(row) >= bound), None)
