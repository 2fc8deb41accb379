"""A split's labels as an array, those of words brought to their tokens.

Shapes: N examples, T tokens of a split without padding.
"""

from __future__ import annotations

import numpy as np

from autopeft.engine.texts import Encoded, Reader, spans_of
from autopeft.errors import AutopeftError
from autopeft.readouts import IGNORED, Readout
from autopeft.tasks import Split


def labels_of(name: str, split: Split, read: Encoded, readout: Readout, reader: Reader) -> np.ndarray:
    """Labels [N, ...], or [T] of a readout that reads all tokens, with `IGNORED` for tokens that have none.

    `AutopeftError` where tokens cannot be told apart in the text, or none has a label.
    """
    if not readout.per_token:
        return readout.array(split.labels)
    flat: list[int] = []
    for ids, (lead, spans), text, label in zip(
        read.ids, spans_of(reader, split, read), split.first, split.labels, strict=True
    ):
        own = readout.placed(text, label, spans)
        flat += [IGNORED] * lead + own + [IGNORED] * (len(ids) - lead - len(own))
    found = readout.array(flat)
    if bool((found == IGNORED).all()):
        raise AutopeftError(
            f"{name}: no word with a label is a token for the tokenizer; use a tokenizer of their language"
        )
    return found
