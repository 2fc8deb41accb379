"""Bytes at the peak of training one candidate."""

from __future__ import annotations

from typing import ClassVar

from autopeft.anatomy import INPUT, ModelShape
from autopeft.costs._base import Cost
from autopeft.costs.trainable_params import TrainableParams
from autopeft.hybrid import Hybrid
from autopeft.methods import Method

#: Of a trained weight, in fp32: its value, its gradient as autograd gives it and as the optimiser has it, two moments.
_TRAINED = 5 * 4
#: Of a frozen weight in full fine-tuning: value, gradient, two moments.
_FULL = 4 * 4
#: Numbers a token that a feed-forward network keeps, in its widths: of a gated one the gate, what its activation gives,
#: and `up`; of others what the activation is given, or with GPT's, written out, three more.
_GATED, _WRITTEN_OUT, _PLAIN = 3, 4, 1
#: Chunks of logits that are there at once: themselves, and what the sum over the words makes of them.
_CHUNKS = 3
#: Maps that are given the same, which is kept once however many of them a method reads.
_SAME = ({"q", "k", "v"}, {"up", "gate"})
#: In the lowest trained layer attention, or the feed-forward network, keeps what it computes if one of these is there.
_ATTENTION = {"layer_in", "norm1", "q", "k", "v", "attention"}
_FEED_FORWARD = {*_ATTENTION, "o", "norm2", "up", "gate", "down_in"}


class TrainingMemory(Cost):
    """Bytes at the peak of training one candidate alone: backbone, trained weights with moments, activations, logits.

    Activations are those of the layers from the first adapted one up, of as many tokens as go through at once. What a
    library keeps for itself is left out.
    """

    name: ClassVar[str] = "training_memory"
    description: ClassVar[str] = (
        "bytes at the peak of training, for the batch, length and precision; a share is of full"
    )
    unit: ClassVar[str] = "bytes"
    short: ClassVar[str] = "train mem"
    by_tokens: ClassVar[bool] = True

    def of(self, hybrid: Hybrid, shape: ModelShape, length: int) -> int:
        """Backbone and trained weights, and what is kept of a part of a batch."""
        hybrid.check(shape)
        load, trained = shape.load, TrainableParams().of(hybrid, shape, length)
        length += hybrid.input_tokens
        sequences = load.at_once(length)
        first = hybrid.first_adapted
        layers = [
            self._kept(methods, shape.at(i), length, i > first or bool(hybrid.model))
            for i, methods in enumerate(hybrid.layers[first:], first)
        ]
        kept = sum(layers)
        if load.checkpoint and layers:
            # What each layer is given, and all of the one that is computed again.
            kept = len(layers) * length * shape.hidden * load.bytes + max(layers)
        kept = int(load.holes * sequences * kept)
        return self._frozen(shape) + _TRAINED * trained + kept + self._passing(shape, sequences * length)

    def reference(self, shape: ModelShape, length: int) -> int:
        """Full fine-tuning, all layers kept."""
        load, widths = shape.load, _widths_in(shape)
        sequences = load.at_once(length)
        each = (self._kept((), shape.at(i), length, True) + length * widths * load.bytes for i in range(shape.layers))
        kept = sequences * sum(each)
        passing = self._passing(shape, sequences * length)
        return _FULL * shape.backbone_params + int(load.holes * kept) + passing

    def _frozen(self, shape: ModelShape) -> int:
        load = shape.load
        maps = sum(one * other for i in range(shape.layers) for one, other in _maps(shape.at(i)))
        return int(load.map_bytes * maps) + load.bytes * (shape.backbone_params - maps + shape.own_head)

    def _kept(self, methods: tuple[Method, ...], shape: ModelShape, length: int, below: bool) -> int:
        """What a layer keeps of one sequence for its backward pass; `below`: something below it is trained."""
        load, numbers = shape.load, 0
        places = {place for method in methods for place in method.places(shape)}
        # Norms compute in fp32.
        norm = 4 * length * shape.hidden
        kept = self._attention(methods, shape, length) + norm if below or places & _ATTENTION else 0
        if below or places & _FEED_FORWARD:
            kept += self._inner(shape) * shape.ffn * length * load.bytes + norm
        for sites in _SAME:
            numbers += length * shape.hidden * bool(sites & places)
        for method in methods:
            numbers += length * sum(_own(method, shape, place) for place in method.places(shape))
        return kept + numbers * load.bytes

    def _attention(self, methods: tuple[Method, ...], shape: ModelShape, length: int) -> int:
        """Queries, keys, values, output and mask; scores where attention is two products and a softmax."""
        load, columns = shape.load, length + sum(m.attention_columns() for m in methods)
        columns += length if shape.row.cross else 0
        scores = shape.heads * length * columns * (4 + load.bytes) if load.scores else 0
        own = 2 * shape.heads * shape.head_dim * (length + columns) * load.bytes
        return own * (2 if shape.row.cross else 1) + 4 * length * columns + scores

    def _inner(self, shape: ModelShape) -> int:
        if shape.gated:
            return _GATED
        return _WRITTEN_OUT if shape.row.norm_first and shape.causal else _PLAIN

    def _passing(self, shape: ModelShape, tokens: int) -> int:
        """What is there for a moment at the top: a chunk of logits, or the gradients of one feed-forward network."""
        load = shape.load
        states = 3 * tokens * shape.hidden * load.bytes if shape.words else 0
        chunk = _CHUNKS * 4 * min(tokens * shape.words, max(load.logits, shape.words))
        inner = (3 if shape.gated else 2) * tokens * shape.ffn * load.bytes
        return states + max(chunk, inner)


def _own(method: Method, shape: ModelShape, place: str) -> int:
    """Numbers a token that a method keeps at a place: what it reads, where nobody else keeps it, and its inside."""
    wide = 0
    if method.reads == "block":
        wide = shape.hidden
    elif place not in ("attention", INPUT):
        # Other maps' inputs are kept by attention, or once for all of them.
        wide = shape.width(place)[1] if method.reads == "output" else shape.ffn * (place in ("down", "down_in"))
    return wide + method.flops(shape, place, 1).forward // (4 * shape.hidden)


def _maps(shape: ModelShape) -> list[tuple[int, int]]:
    return [shape.width(site) for site in (*shape.sites, *(["gate"] if shape.gated else []))]


def _widths_in(shape: ModelShape) -> int:
    """Numbers a token that the maps of a layer are given, which full fine-tuning keeps."""
    return shape.hidden * 2 + shape.heads * shape.head_dim + shape.ffn
