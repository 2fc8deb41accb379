"""Splits of conversations: their tokens, and which of these are labels.

Shapes: T tokens of a split without padding.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from autopeft.engine.texts import Encoded, Reader
from autopeft.errors import AutopeftError
from autopeft.formats import PairTokenizer, RowTokenizer, Totals
from autopeft.readouts import IGNORED, Readout
from autopeft.tasks import Split


def row_tokenizer(reader: Reader, readout: Readout) -> RowTokenizer | PairTokenizer:
    """What turns conversations into tokens: of a source and a target apart, where a model has an encoder."""
    if readout.encodes:
        return PairTokenizer(reader.tokenizer, reader.limit, reader.start)
    return RowTokenizer(reader.tokenizer, reader.limit)


def read_targets(reader: Reader, name: str, split: Split, readout: Readout) -> tuple[Encoded, np.ndarray]:
    """A split's tokens, and labels [T]: a token's own number where it is scored, else `IGNORED`.

    Examples without a scored token are left out. `AutopeftError` where none is left, and with the row that cannot be
    tokenised or holds tokens that the model does not know.
    """
    found = row_tokenizer(reader, readout).rows(split.first, partial(reader.where, name, split))
    reader.check(name, split, [one.ids or [reader.pad_id] for one in found], [])
    kept = [one for one in found if not one.dropped_reason and any(one.scored)]
    if not kept:
        reason = found[0].dropped_reason or "none of its tokens is scored"
        raise AutopeftError(
            f"{reader.where(name, split, 0)}: {reason}, and so it is with all of {name}; raise training.max_length, or "
            "choose what is scored otherwise"
        )
    flat = (i if scored else IGNORED for one in kept for i, scored in zip(one.ids, one.scored, strict=True))
    encoded = Encoded(
        [one.ids for one in kept], None, sum(one.cut > 0 for one in kept), 0, len(found) - len(kept), Totals.of(found),
        [one.source for one in kept] if readout.encodes else None,
    )  # fmt: skip
    return encoded, readout.array(list(flat))
