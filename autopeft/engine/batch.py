"""Some examples of a split, padded to the longest of them.

Shapes: B examples in a batch, L tokens of the longest in the batch, M of what a decoder is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from autopeft.readouts import IGNORED

if TYPE_CHECKING:
    from autopeft.engine.data import Tokens


@dataclass(frozen=True)
class Batch:
    """Model inputs [B, ...] and labels [B, ...] (or [B, L], of tokens) of the examples `index` [B].

    `weights` [B] are what each counts. `lengths` are the tokens of each example with padding, of each of its texts, the
    one that is written first. Of each real token, one after another: `places` is where it stands in the flattened
    inputs, `rows` where it stands in the split. Where a model has an encoder, `decoder_input_ids` [B, M] are what its
    decoder is given, labels [B, M] are of its tokens, and `places` and `rows` are of the encoder's (see
    `Tokens.frozen_offsets`).
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    index: np.ndarray
    places: torch.Tensor
    rows: torch.Tensor
    weights: np.ndarray
    lengths: tuple[int, ...]

    @property
    def weight(self) -> int:
        """What the batch counts in a mean loss, at least 1: its examples, or its labelled tokens."""
        return max(1, int(self.weights.sum()))

    @property
    def length(self) -> int:
        """Tokens of an example, with padding."""
        return sum(self.lengths)

    @property
    def shape(self) -> tuple[int, int]:
        """Examples, and tokens of each with padding of those that `places` are of, [B, L]."""
        return len(self.index), self.lengths[-1]

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        if device.type == "cpu":
            return self
        inputs = {name: _sent(x, device) for name, x in self.inputs.items()}
        sent = [_sent(x, device) for x in (self.labels, self.places, self.rows)]
        return Batch(inputs, sent[0], self.index, sent[1], sent[2], self.weights, self.lengths)

    def part(self, start: int, end: int) -> Batch:
        """Inputs and labels of its examples from `start` to `end`, as long as before; places and rows are left out."""
        if (start, end) == (0, len(self.index)):
            return self
        none = self.places[:0]
        inputs = {name: x[start:end] for name, x in self.inputs.items()}
        own = self.labels[start:end], self.index[start:end]
        return Batch(inputs, *own, none, none, self.weights[start:end], self.lengths)


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    # Out of pinned memory the copy does not make the host wait.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def collate(tokens: Tokens, index: np.ndarray, pad_id: int) -> Batch:
    """The examples at `index`, padded to the longest of them."""
    if tokens.sources is not None:
        return _collate_pairs(tokens, tokens.sources[index], index, pad_id)
    lengths = tokens.lengths[index]
    filled, rows = _filled_places(lengths), ranges(tokens.offsets[index], tokens.offsets[index + 1])
    inputs = tokens.inputs(index, filled, rows, pad_id)
    places = torch.from_numpy(np.flatnonzero(filled))
    labels = fill(tokens.labels[rows], filled, IGNORED) if tokens.per_token else torch.from_numpy(tokens.labels[index])
    lengths = (filled.shape[1],)
    return Batch(inputs, labels, index, places, torch.from_numpy(rows), tokens.weights[index], lengths)


def _collate_pairs(tokens: Tokens, sources: np.ndarray, index: np.ndarray, pad_id: int) -> Batch:
    begins, ends = tokens.offsets[index], tokens.offsets[index + 1]
    read, starts = ranges(begins, begins + sources), begins + sources
    # The last token is written, and never given; the first is given, and never written.
    given, written = ranges(starts, ends - 1), ranges(starts + 1, ends)
    there, goal = _filled_places(sources), _filled_places(ends - 1 - starts)
    inputs = {
        "input_ids": fill(tokens.ids[read], there, pad_id),
        "attention_mask": torch.from_numpy(there).long(),
        "decoder_input_ids": fill(tokens.ids[given], goal, pad_id),
        "decoder_attention_mask": torch.from_numpy(goal).long(),
    }
    labels = fill(tokens.labels[written], goal, IGNORED)
    kept = tokens.frozen_offsets
    rows = torch.from_numpy(ranges(kept[index], kept[index + 1]))
    places, lengths = torch.from_numpy(np.flatnonzero(there)), (goal.shape[1], there.shape[1])
    return Batch(inputs, labels, index, places, rows, tokens.weights[index], lengths)


def ranges(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers from each beginning to its end, one after another."""
    return np.concatenate([np.arange(begin, end) for begin, end in zip(begins, ends, strict=True)])


def _filled_places(lengths: np.ndarray) -> np.ndarray:
    filled: np.ndarray = np.arange(lengths.max())[None] < lengths[:, None]
    return filled


def fill(values: np.ndarray, where: np.ndarray, rest: int) -> torch.Tensor:
    """Values [T] where `where` [B, L] says, and `rest` elsewhere."""
    padded = np.full(where.shape, rest, dtype=np.int64)
    padded[where] = values
    return torch.from_numpy(padded)
