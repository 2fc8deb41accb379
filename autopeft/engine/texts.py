"""Texts turned into token ids, and refused where a model could not take them: before training, with their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autopeft.anatomy import InputLimits
from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.tasks import Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Characters of a long text that are looked at for each token that is kept, at first: English has 4 or 5 a token.
_CHARACTERS = 16
_CHUNK = 2_000
_SHOWN = 40
_BROKEN = ("cannot be tokenised", "mend the text")


@dataclass(frozen=True)
class Encoded:
    """Token and segment ids of N examples (no segments: None), how many were cut, and how many hold no text token."""

    ids: list[list[int]]
    types: list[list[int]] | None
    cut: int
    empty: int


class Reader:
    """Turns splits into token ids, at most `limit` an example; `reason` says where that limit is from."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, limits: InputLimits | None) -> None:
        self._tokenizer, self._limits = tokenizer, limits
        own = tokenizer.model_max_length
        known = {"training.max_length": max_length, "the tokenizer's model_max_length": own}
        if limits is not None:
            known["the positions that the model has"] = limits.tokens
        self.reason = min(known, key=lambda name: known[name])
        self.limit = int(known[self.reason])
        self.pad_id = _padding(tokenizer, limits)

    def read(self, name: str, split: Split) -> Encoded:
        """One split; `AutopeftError` with the row that cannot be tokenised, or holds what the model does not know."""
        special = int(self._tokenizer.num_special_tokens_to_add(pair=split.second is not None))
        if self.limit <= special:
            raise AutopeftError(
                f"{self.reason}: {self.limit} tokens leave no room beside the {special} that the tokenizer adds; "
                "raise training.max_length or take a model of more positions"
            )
        ids: list[list[int]] = []
        types: list[list[int]] = []
        cut = 0
        for start in range(0, len(split), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(split)))
            found = self._chunk(name, split, rows)
            ids += found["input_ids"]
            types += found.get("token_type_ids", [])
            cut += self._cut(split, rows, found["input_ids"])
        empty = sum(len(x) <= special for x in ids)
        if name == "train" and empty == len(ids):
            raise AutopeftError(f"{name}: the tokenizer finds no token in any text; use a tokenizer of their language")
        # An empty text is no token where a tokenizer adds none of its own, and a model needs at least one.
        ids, types = [x or [self._filler()] for x in ids], [x or [0] for x in types]
        self._check(name, split, ids, types)
        return Encoded(ids, types or None, cut, empty)

    def unknown(self, ids: np.ndarray) -> float:
        """The share of these that stand for what the tokenizer does not know."""
        number = self._tokenizer.unk_token_id
        return 0.0 if number is None else float((ids == number).mean())

    def _chunk(self, name: str, split: Split, rows: range) -> dict[str, list[list[int]]]:
        pairs = []
        for i in rows:
            with door(_where(name, split, i), *_BROKEN):
                pairs.append(self._shortened(*_texts(split, i)))
        try:
            with door(name, *_BROKEN):
                return self._encode(pairs, self.limit)
        except AutopeftError:
            for i, pair in zip(rows, pairs, strict=True):
                with door(_where(name, split, i), *_BROKEN):
                    self._encode([pair], self.limit)
            raise

    def _encode(self, pairs: Sequence[Sequence[str]], limit: int) -> dict[str, list[list[int]]]:
        columns = [list(column) for column in zip(*pairs, strict=True)]
        encoded: Any = self._tokenizer(*columns, truncation=True, max_length=limit)
        return {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}

    def _cut(self, split: Split, rows: range, ids: Sequence[Sequence[int]]) -> int:
        """How many of the rows had more tokens than the limit: only of those that reach it that is to be found out."""
        full = [i for i, own in zip(rows, ids, strict=True) if len(own) == self.limit]
        if not full:
            return 0
        again = self._encode([self._shortened(*_texts(split, i)) for i in full], self.limit + 1)
        return sum(len(own) > self.limit for own in again["input_ids"])

    def _shortened(self, *texts: str) -> tuple[str, ...]:
        """Texts whose first tokens are the same, without most of what is cut away: a book takes seconds to tokenise."""
        parts = [self._beginning(text) for text in texts]
        shorter = [len(part) < len(text) for part, text in zip(parts, texts, strict=True)]
        if len(texts) == 2 and any(shorter):
            # What is left of a pair depends on which is the longer one.
            counts = [self._count(part) for part in parts]
            room = self.limit - int(self._tokenizer.num_special_tokens_to_add(pair=True))
            if room % 2 if all(shorter) else counts[shorter.index(False)] >= counts[shorter.index(True)]:
                return texts
        return tuple(parts)

    def _beginning(self, text: str) -> str:
        """So much of a text that the tokens which are kept end far before it does."""
        if self._tokenizer.truncation_side != "right":
            return text
        size = _CHARACTERS * (self.limit + 1)
        while size < len(text):
            if self._count(text[:size]) >= 2 * (self.limit + 1):
                return text[:size]
            size *= 8
        return text

    def _count(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _filler(self) -> int:
        """The token that stands for an empty text."""
        end = self._tokenizer.eos_token_id
        known = end is not None and (self._limits is None or end < self._limits.vocabulary)
        return int(end) if known else self.pad_id

    def _check(self, name: str, split: Split, ids: list[list[int]], types: list[list[int]]) -> None:
        if self._limits is None:
            return
        words, segments = self._limits.vocabulary, self._limits.segments
        if (i := _reaching(ids, words)) is not None:
            wrong = next(number for number in ids[i] if number >= words)
            token = self._tokenizer.convert_ids_to_tokens(wrong)
            raise AutopeftError(
                f"{_where(name, split, i)}: token {token!r:.60} has the number {wrong}, and the model has embeddings "
                f"of {words} only; use the model's own tokenizer, or take the token out of the text"
            )
        if segments is not None and (i := _reaching(types, segments)) is not None:
            raise AutopeftError(
                f"{_where(name, split, i)}: segment id {max(types[i])}, and the model knows {segments} of them "
                "(type_vocab_size); use the model's own tokenizer"
            )


def _padding(tokenizer: PreTrainedTokenizerBase, limits: InputLimits | None) -> int:
    pad = tokenizer.pad_token_id
    if pad is None or (limits is not None and not 0 <= pad < limits.vocabulary):
        raise AutopeftError("the tokenizer has no token to pad with that the model knows; set its pad_token")
    return int(pad)


def _texts(split: Split, i: int) -> tuple[str, ...]:
    return (split.first[i],) if split.second is None else (split.first[i], split.second[i])


def _where(name: str, split: Split, i: int) -> str:
    """A row's place, as a person finds it."""
    text = " ".join(split.first[i][: 2 * _SHOWN].split())
    return f"{name}, text {i + 1} of {len(split):,} ({text[:_SHOWN]!r})"


def _reaching(rows: Sequence[Sequence[int]], bound: int) -> int | None:
    """The first row that holds a number of at least `bound`."""
    return next((i for i, row in enumerate(rows) if max(row) >= bound), None)
