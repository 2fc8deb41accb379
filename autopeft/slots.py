"""Where a space's blocks stand in a layer: sizes of a hybrid's methods to coordinates, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autopeft.anatomy import ModelShape
from autopeft.dimensions import Ordinal
from autopeft.errors import AutopeftError
from autopeft.methods import Method
from autopeft.space_spec import Block


@dataclass(frozen=True)
class Slot:
    """One block in a layer or before all: the dimension of its size (None when it has one only) and its methods."""

    dimension: str | None
    block: Block
    methods: tuple[Method, ...]

    def method(self, point: Mapping[str, int | float]) -> Method:
        """The method at the point's size."""
        return self.methods[0 if self.dimension is None else int(point[self.dimension])]

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """(Label, site) of each place that the block takes."""
        return tuple((self.methods[0].label, site) for site in self.methods[0].sites)


def layers_of_blocks(
    blocks: Sequence[Block], sizes: Mapping[str, Sequence[int]], stack: str | None, shape: ModelShape, where: str
) -> dict[str, frozenset[int]]:
    """The layers in which each block stands: those that have a place for it, of a `stack` alone if one is named.

    `AutopeftError` for a block that stands nowhere, and for a stack that the model does not have.
    """
    if stack and not shape.stacks:
        raise AutopeftError(
            f"{where}: stack: '{stack}' is of models with an encoder and a decoder, and '{shape.family}' is none; "
            "leave it out"
        )
    low = shape.encoder_layers
    among = range(low if stack == "decoder" else 0, low if stack == "encoder" else shape.layers)
    found = {}
    for block in blocks:
        method = block.make(sizes[block.name][-1])
        block.check(method, shape, where)
        if block.of_model:
            continue
        found[block.name] = frozenset(i for i in among if method.places(shape.at(i)))
        if among and not found[block.name]:
            raise AutopeftError(f"{where}: block '{block.name}' has no place in the {stack}; leave it out")
    return found


def encode(slots: Sequence[Slot], methods: Sequence[Method], point: dict[str, Any]) -> None:
    """Write the levels of a layer's methods into the point; `ValueError` for a size that no level has."""
    sizes = sizes_in(methods, slots)
    for slot in slots:
        if slot.dimension is not None:
            point[slot.dimension] = [m.size_value for m in slot.methods].index(sizes[slot.block.name])


def sizes_in(methods: Sequence[Method], slots: Sequence[Slot]) -> dict[str, int]:
    """The size of each block at its first place; 0 where it is absent."""
    at = _sizes_at(methods)
    return {slot.block.name: at.get(slot.places[0], 0) for slot in slots}


def mean_sizes(methods: Sequence[Method], slots: Sequence[Slot]) -> dict[str, float] | None:
    """The mean size of each block over its places; None where a method stands at a place that no block has."""
    at = _sizes_at(methods)
    if not at.keys() <= {place for slot in slots for place in slot.places}:
        return None
    return {slot.block.name: float(np.mean([at.get(place, 0) for place in slot.places])) for slot in slots}


def near_level(dimension: Ordinal, before: Mapping[str, float], layers: Sequence[Mapping[str, float]]) -> float:
    """The level of a dimension for these mean sizes before all and in each layer; of a bit, whether there are any."""
    if dimension.kind == "bit":
        assert dimension.layer is not None, "a bit is of a layer"
        return float(any(layers[dimension.layer].values()))
    block = dimension.block
    assert block is not None, "a size is of a block"
    if block in before:
        return level_of(dimension, before[block])
    if dimension.layer is not None:
        return level_of(dimension, layers[dimension.layer][block])
    there = [sizes[block] for sizes in layers if sizes.get(block)]
    return level_of(dimension, float(np.mean(there)) if there else 0.0)


def level_of(dimension: Ordinal, size: float) -> float:
    """The level of a size on the list's own scale, between two levels where the size is between theirs.

    That scale is log2(1 + size), as the surrogate has it; what is larger than all is the largest.
    """
    sizes = np.log2(1 + np.array(dimension.values, dtype=float))
    levels, at = np.arange(len(sizes), dtype=float), np.log2(1 + size)
    if (np.diff(sizes) > 0).all():
        return float(np.interp(at, sizes, levels))
    # Sizes that train less the larger they are: the nearest one, but absent only what is.
    there = [i for i in range(len(sizes)) if bool(dimension.values[i]) == bool(size)] or [0]
    return float(min(there, key=lambda i: abs(sizes[i] - at)))


def _sizes_at(methods: Iterable[Method]) -> dict[tuple[str, str], int]:
    return {(m.label, site): m.size_value for m in methods for site in m.sites}


def apart(blocks: Sequence[Block]) -> tuple[list[Block], list[Block]]:
    """Blocks of layers, and blocks of the whole model."""
    return [b for b in blocks if not b.of_model], [b for b in blocks if b.of_model]


def size_name(layer: int | None, block: Block) -> str:
    """The name of the dimension of a block's size in a layer; None: in all."""
    before = "model." if block.of_model else "" if layer is None else f"L{layer:02}."
    return f"{before}{block.name}.{block.method.size}"
