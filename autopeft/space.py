"""The search space: a fixed flat box of dimensions for a model, decoded to candidates.

Size 0 is an absent method, so the box has no conditional dimensions and every sampler works on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from autopeft.anatomy import ModelShape
from autopeft.candidate import Candidate
from autopeft.dimensions import Continuous, Dimension, Ordinal, ranges_of
from autopeft.errors import AutopeftError, shown, suggest
from autopeft.hybrid import Hybrid
from autopeft.methods import Method
from autopeft.slots import Slot, apart, encode, layers_of_blocks, mean_sizes, near_level, size_name, sizes_in
from autopeft.space_spec import read_spec
from autopeft.training_spec import bounds_of

if TYPE_CHECKING:
    from numpy.random import Generator
    from optuna import Trial
    from optuna.distributions import BaseDistribution

#: A value for every dimension by name: an index for ordinal dimensions, a number for continuous ones.
Point = Mapping[str, int | float]

#: Of a space; the largest models with all methods in all layers have a tenth of it. Python writes out no whole number
#: of more than 4,300 digits.
_MOST_DIMENSIONS, _MOST_DIGITS = 10_000, 4_000


class SearchSpace:
    """A search space on a model of a given shape.

    Per-layer sizes: one dimension a layer and block, `L03.lora.rank` (layers count from 0). Shared sizes: one a block,
    `lora.rank`, and one on / off bit a layer, `L03.on` (the space of the AutoPEFT paper). In both, one of the whole
    model for each block that stands before the layers, `model.prompt_tuning.length`. Then the training hyper-parameters
    that are not fixed. A block with one size only has no dimension.
    """

    def __init__(self, source: str | Path | Mapping[str, Any], shape: ModelShape) -> None:
        self._spec, self._blocks, self.where = read_spec(source)
        self.shape, self.description, self.servable = shape, self._spec.description, self._spec.servable
        self.shared = self._spec.sizes == "shared"
        self._sizes = {block.name: block.scaled(shape) for block in self._blocks}
        self._stood = layers_of_blocks(self._blocks, self._sizes, self._spec.stack, shape, self.where)
        training = {name: values for name, values in self._spec.training if values is not None}
        self._fixed = {name: v.choices[0] for name, v in training.items() if v.is_fixed and v.choices}
        self.dimensions: tuple[Dimension, ...] = (
            *self._structure(),
            *self._spec.training.dimensions,
        )
        self._check_size()
        self._by_name = {d.name: d for d in self.dimensions}
        self._made = {b.name: tuple(b.make(size) for size in self._sizes[b.name]) for b in self._blocks}
        self._seen_layers: dict[tuple[Method, ...], tuple[Method, ...]] = {}
        self._layers, self._model = tuple(self._slots(i) for i in range(shape.layers)), self._slots(None)

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], shape: ModelShape) -> SearchSpace:
        """The space of a shipped name (`hybrid`), a YAML file or a mapping, for a model of `shape`."""
        return cls(source, shape)

    @property
    def size(self) -> int:
        """The number of hybrid configurations (training hyper-parameters not counted)."""
        return math.prod(len(d.values) for d in self.structure)

    @property
    def ordinal(self) -> tuple[Ordinal, ...]:
        """The dimensions with a list of values: sizes, bits, training choices."""
        return tuple(d for d in self.dimensions if isinstance(d, Ordinal))

    @property
    def input_tokens(self) -> int:
        """The most vectors that a hybrid of it puts to a text."""
        return sum(max(method.input_tokens() for method in slot.methods) for slot in self._model)

    @property
    def of_model(self) -> frozenset[str]:
        """The names of the blocks that stand before the layers, once a model."""
        return frozenset(slot.block.name for slot in self._model)

    @property
    def methods(self) -> dict[str, str]:
        """The name of the method of each block."""
        return {block.name: block.method.name for block in self._blocks}

    @property
    def structure(self) -> tuple[Ordinal, ...]:
        """The dimensions that make the hybrid: sizes and bits."""
        return tuple(d for d in self.ordinal if d.kind != "training")

    @property
    def ranges(self) -> tuple[Continuous, ...]:
        """The dimensions that are ranges of numbers."""
        return ranges_of(self.dimensions)

    @cached_property
    def smallest(self) -> Hybrid:
        """The hybrid of the least sizes, which is most often the empty one."""
        return self.hybrid({d.name: 0 for d in self.structure})

    @cached_property
    def largest(self) -> Hybrid:
        """The hybrid of the largest sizes, within a budget or not."""
        return self.hybrid({d.name: len(d.values) - 1 for d in self.structure})

    def decode(self, point: Point) -> Candidate:
        """The candidate of a point; `AutopeftError` for a dimension that is missing, unknown or out of its domain."""
        self.check(point)
        training = dict(self._fixed)
        training |= {d.name: float(d.value(point[d.name])) for d in self.dimensions if d.kind == "training"}
        return Candidate(self.hybrid(point), training)

    def hybrid(self, point: Point) -> Hybrid:
        """The hybrid of a point whose sizes and bits are known to be in the domain."""
        return _canonical_hybrid(
            tuple(
                self._canonical(tuple(slot.method(point) for slot in slots)) if self._on(i, point) else ()
                for i, slots in enumerate(self._layers)
            ),
            Hybrid((), tuple(slot.method(point) for slot in self._model)).model if self._model else (),
        )

    def check(self, point: Point) -> None:
        """`AutopeftError` unless the point has a value in the domain for every dimension, and no other."""
        for name in point:
            if name not in self._by_name:
                raise AutopeftError(f"point: unknown dimension '{name}'; {suggest(str(name), self._by_name)}")
        for name, dimension in self._by_name.items():
            if name not in point:
                raise AutopeftError(f"point: dimension '{name}' is missing")
            if not dimension.contains(point[name]):
                raise AutopeftError(f"point: {name} = {shown(point[name])} is outside its domain")

    def encode(self, candidate: Candidate) -> dict[str, int | float]:
        """The point that decodes to `candidate`; `AutopeftError` when the space has none."""
        candidate.hybrid.check(self.shape)
        point: dict[str, int | float] = {d.name: 0 for d in self.dimensions}
        try:
            for i, slots in enumerate(self._layers):
                self._encode_layer(i, slots, candidate.hybrid.layers[i], point)
            encode(self._model, candidate.hybrid.model, point)
            for d in self.dimensions:
                if d.kind == "training":
                    point[d.name] = d.raw(candidate.training[d.name])
        except (ValueError, KeyError) as error:
            raise AutopeftError(f"candidate {candidate.key} is not in the search space: {error}") from None
        if self.decode(point) != candidate:
            raise AutopeftError(f"candidate {candidate.key} is not in the search space")
        return point

    def point_of(self, candidate: Candidate) -> dict[str, int | float] | None:
        """`encode`, or None when the space has no such point."""
        try:
            return self.encode(candidate)
        except AutopeftError:
            return None

    def near_point(self, hybrid: Hybrid) -> dict[str, float] | None:
        """The nearest structure of the box to any hybrid, its levels between two sizes where the hybrid's are.

        A method counts in a layer with the mean size over its places; where layers share sizes, with the mean over
        those that have it. None for a hybrid with a method, or at a place, that the space does not have.
        """
        means = [mean_sizes(*layer) for layer in zip(hybrid.layers, self._layers, strict=True)]
        before = mean_sizes(hybrid.model, self._model)
        found = [each for each in means if each is not None]
        if before is None or len(found) < len(means):
            return None
        return {d.name: near_level(d, before, found) for d in self.structure}

    def ranging(self, trainings: Iterable[Mapping[str, float]]) -> Self:
        """The same space with ranges that hold these training hyper-parameters too, as far as they may be widened."""
        known = list(trainings)
        dimensions = [
            d.ranging(min(values), max(values))
            if isinstance(d, Continuous) and (values := [t[d.name] for t in known if d.name in t])
            else d
            for d in self.dimensions
        ]
        return self if dimensions == list(self.dimensions) else self._with(dimensions)

    def ranges_as(self, there: Mapping[str, Any]) -> Self:
        """The space as a search has it that began with `there` (`to_json`), maybe before ranges were widened."""
        spec = self._spec.ranges_as(there.get("training"))
        kept = {name: bounds_of(name, v) for name, v in spec.training if v is not None}
        made = [replace(d, bounds=kept[d.name]) if isinstance(d, Continuous) else d for d in self.dimensions]
        same = self._with(made)
        same._spec = spec
        return same

    def _with(self, dimensions: Sequence[Dimension]) -> Self:
        same = copy(self)
        same.dimensions, same._by_name = tuple(dimensions), {d.name: d for d in dimensions}
        return same

    def suggest(self, trial: Trial) -> Candidate:
        """The candidate of an Optuna trial, for use in one's own objective."""
        return self.decode({d.name: d.suggest(trial) for d in self.dimensions})

    def distributions(self) -> dict[str, BaseDistribution]:
        """The box for Optuna, in the order of `dimensions`."""
        return {d.name: d.distribution() for d in self.dimensions}

    def random_point(self, rng: Generator) -> dict[str, int | float]:
        """A uniform point."""
        return {d.name: d.random(rng) for d in self.dimensions}

    def sizes_of(self, point: Point) -> dict[str, int | float]:
        """The point with real sizes and values in place of indices, for people."""
        return {d.name: d.value(point[d.name]) for d in self.dimensions}

    def block_sizes(self, hybrid: Hybrid) -> tuple[dict[str, int], ...]:
        """For each layer, lowest first, the size of every block in it; 0 where it is absent.

        What stands before all layers counts as the lowest one's.
        """
        absent = {block.name: 0 for block in self._blocks}
        layers = [absent | sizes_in(m, slots) for m, slots in zip(hybrid.layers, self._layers, strict=True)]
        return (layers[0] | sizes_in(hybrid.model, self._model), *layers[1:])

    def to_json(self) -> dict[str, Any]:
        """The space as it is written, with the sizes of this model; `load` reads it back."""
        return {
            "description": self.description,
            **({"stack": self._spec.stack} if self._spec.stack else {}),
            "sizes": self._spec.sizes,
            "blocks": {b.name: b.to_json(self._sizes[b.name]) for b in self._blocks},
            "training": {name: v.to_json() for name, v in self._spec.training if v is not None},
            **({"servable": self.servable.to_json()} if self.servable else {}),
        }

    def _structure(self) -> list[Ordinal]:
        """The dimensions of the sizes, then the bits of the layers."""
        numbers = range(self.shape.layers)
        layers: list[int | None] = [None] if self.shared else list(numbers)
        inside, before = apart(self._blocks)
        sizes = [
            Ordinal(size_name(layer, b), self._sizes[b.name], "size", layer, b.name)
            for blocks, there in ((inside, layers), (before, [None]))
            for layer in there
            for b in blocks
            if len(self._sizes[b.name]) > 1 and (layer is None or layer in self._stood[b.name])
        ]
        adapted = {i for there in self._stood.values() for i in there}
        return sizes + [Ordinal(f"L{i:02}.on", (0, 1), "bit", i) for i in numbers if self.shared and i in adapted]

    def _check_size(self) -> None:
        """`AutopeftError` for a space that no search could see anything of."""
        hybrids = sum(math.log10(len(d.values)) for d in self.structure)
        if len(self.dimensions) > _MOST_DIMENSIONS or hybrids > _MOST_DIGITS:
            size = f"{len(self.dimensions):,} dimensions and 10^{hybrids:.0f} hybrids on {self.shape.layers:,} layers"
            most = f"at most {_MOST_DIMENSIONS:,} and 10^{_MOST_DIGITS} can be searched"
            raise AutopeftError(f"{self.where}: {size}; {most}: leave blocks or sizes out")

    def _slots(self, layer: int | None) -> tuple[Slot, ...]:
        """Those of a layer, or those before all."""
        inside, before = apart(self._blocks)
        blocks = before if layer is None else [b for b in inside if layer in self._stood[b.name]]
        named = [(size_name(None if self.shared else layer, b), b) for b in blocks]
        return tuple(Slot(name if name in self._by_name else None, b, self._made[b.name]) for name, b in named)

    def _canonical(self, methods: tuple[Method, ...]) -> tuple[Method, ...]:
        """A layer in the hybrid's canonical form; there are few different layers, so each is worked out once."""
        if methods not in self._seen_layers:
            self._seen_layers[methods] = Hybrid((methods,)).layers[0]
        return self._seen_layers[methods]

    def _on(self, layer: int, point: Point) -> bool:
        return not self.shared or bool(point.get(f"L{layer:02}.on", 0))

    def _encode_layer(
        self, layer: int, slots: tuple[Slot, ...], methods: tuple[Method, ...], point: dict[str, Any]
    ) -> None:
        """Write a layer's sizes (and its bit) into the point; the caller decodes again to see if all was caught."""
        if self.shared:
            if not methods:
                if slots:
                    point[f"L{layer:02}.on"] = 0
                return
            point[f"L{layer:02}.on"] = 1
        encode(slots, methods, point)


def _canonical_hybrid(layers: tuple[tuple[Method, ...], ...], model: tuple[Method, ...]) -> Hybrid:
    """A hybrid of canonical parts, without bringing them into that form again: repair builds hundreds a point."""
    hybrid = object.__new__(Hybrid)
    object.__setattr__(hybrid, "layers", layers)
    object.__setattr__(hybrid, "model", model)
    return hybrid
