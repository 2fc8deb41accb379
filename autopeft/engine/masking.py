"""Plain texts with some of their tokens masked, which are the labels (Devlin et al. 2019, "BERT", section 3.1).

Shapes: T tokens of a split without padding.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from autopeft.doors import within
from autopeft.engine.texts import Encoded, Reader
from autopeft.errors import AutopeftError
from autopeft.formats import Conversation
from autopeft.readouts import IGNORED
from autopeft.tasks import Split

#: Of an example's tokens those that are masked, and of these what becomes the mask, and what another token.
SHARE, _MASK, _OTHER = 0.15, 0.8, 0.1


@dataclass(frozen=True)
class Masking:
    """Which tokens of an example are masked, and by what: a function of the seed and the example alone.

    So it is the same in every epoch, and frozen layers' outputs can be kept; RoBERTa's is drawn anew each time.
    """

    seed: int
    mask: int
    special: np.ndarray
    words: np.ndarray

    @classmethod
    def of(cls, reader: Reader, seed: int) -> Self:
        """By a tokenizer; `AutopeftError` where it has no mask that the model knows."""
        tokenizer, limits = reader.tokenizer, reader.limits
        size, mask = len(tokenizer), tokenizer.mask_token_id
        size = size if limits is None else min(size, limits.vocabulary)
        if mask is None or mask >= size:
            raise AutopeftError(
                "the tokenizer has no mask token that the model knows; readout 'masked_lm' is for models such as BERT"
            )
        special = np.asarray(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
        return cls(seed, int(mask), special, np.setdiff1d(np.arange(size), special))

    def masked(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """An example with masks, and its labels: the tokens that were there, else `IGNORED`."""
        real, found = np.asarray(ids, dtype=np.int64), np.asarray(ids, dtype=np.int64)
        ordinary = np.flatnonzero(~np.isin(real, self.special))
        rng = np.random.default_rng([self.seed, zlib.crc32(real.tobytes())])
        count = max(1, round(SHARE * len(ordinary))) if len(ordinary) else 0
        chosen, fate = rng.permutation(ordinary)[:count], rng.random(count)
        found[chosen[fate < _MASK]] = self.mask
        others = chosen[(fate >= _MASK) & (fate < _MASK + _OTHER)]
        found[others] = rng.choice(self.words, len(others))
        labels = np.full(len(real), IGNORED)
        labels[chosen] = real[chosen]
        return found.tolist(), labels.tolist()


def read_masked(reader: Reader, name: str, split: Split, seed: int) -> tuple[Encoded, np.ndarray]:
    """A split's tokens with masks, and labels int64 [T]; examples without an ordinary token are left out.

    `AutopeftError` where none is left, and with the row that is no plain text or cannot be tokenised.
    """
    masking = Masking.of(reader, seed)
    plain = replace(split, first=tuple(_text(reader, name, split, i) for i in range(len(split))))
    read = reader.read(name, plain)
    made = [masking.masked(ids) for ids in read.ids]
    kept = [i for i, (_, labels) in enumerate(made) if any(label != IGNORED for label in labels)]
    if not kept:
        raise AutopeftError(f"{name}: no text has a token that could be masked; use a tokenizer of their language")
    types = None if read.types is None else [read.types[i] for i in kept]
    labels = np.asarray([label for i in kept for label in made[i][1]], dtype=np.int64)
    left = Encoded([made[i][0] for i in kept], types, read.cut, read.empty, len(made) - len(kept))
    return left, labels


def _text(reader: Reader, name: str, split: Split, i: int) -> str:
    where = reader.where(name, split, i)
    with within(where):
        row = Conversation.from_json(split.first[i])
    if row.turns:
        raise AutopeftError(
            f"{where}: has turns of a chat, and readout 'masked_lm' is for plain texts; name the column of texts "
            "(columns: {COLUMN: text})"
        )
    return "".join(part.text for part in row.parts)
