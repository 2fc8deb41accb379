"""The shape of a model: all that counting needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from autopeft.anatomy._families import FAMILIES
from autopeft.anatomy._family import CROSS, INPUT, Family
from autopeft.anatomy._limits import TrainingLoad
from autopeft.anatomy._sites import Rows
from autopeft.errors import AutopeftError


@dataclass(frozen=True)
class ModelShape:
    """All that counting needs to know of a backbone; every layer of a stack has the same shape.

    `stacks`: the shapes of encoder and decoder, of a model that has both; `at` gives a layer's own. What the whole says
    of its layers is then the encoder's, and it has a place, as wide as the widest, where one of them has it.

    `sites` maps a site to (in, out) of its linear map; `backbone_params` is the number of parameters of the base model
    without the task's head; `gated` says that the feed-forward network has a second input map of the shape of `up`,
    `biased` which maps and norms have a bias, `embedding` the width that tokens are looked up with (0: that of the
    layers). `words` is how many outputs the frozen head of a language model has (0: it has none), `own_head` the
    numbers of that head which are not the embeddings', and `load` says how it is trained on. `names` are the family's
    for this model (None: those of the table).
    """

    family: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    sites: Mapping[str, tuple[int, int]] = field(hash=False)
    backbone_params: int
    gated: bool = False
    causal: bool = False
    biased: frozenset[str] = frozenset()
    embedding: int = 0
    words: int = 0
    own_head: int = 0
    load: TrainingLoad = field(default_factory=TrainingLoad)
    names: Family | None = field(default=None, hash=False)
    stacks: tuple[ModelShape, ...] = ()

    def at(self, layer: int) -> ModelShape:
        """The shape of a layer, lowest first."""
        for stack in self.stacks:
            if layer < stack.layers:
                return stack
            layer -= stack.layers
        return self

    def loaded(self, load: TrainingLoad) -> ModelShape:
        """The same, trained on as `load` says."""
        return replace(self, load=load, stacks=tuple(replace(stack, load=load) for stack in self.stacks))

    @property
    def encoder_layers(self) -> int:
        """How many of its layers are an encoder's below a decoder."""
        return self.stacks[0].layers if self.stacks else 0

    def stack_of(self, layer: int) -> int:
        """The number of the stack that a layer is in."""
        return int(bool(self.stacks) and layer >= self.encoder_layers)

    def inside(self, layer: int) -> str:
        """The dotted name of a layer in the base model."""
        for stack in self.stacks:
            if layer < stack.layers:
                return stack.inside(layer)
            layer -= stack.layers
        return f"{self.row.layers}.{layer}"

    def entrance(self, layer: int) -> int:
        """The highest layer from which all that is below need not be computed again, for one that differs from `layer`.

        Of an encoder and a decoder that is the decoder's lowest, which is given what the encoder gives.
        """
        if not self.stacks:
            return layer
        return self.encoder_layers if layer >= self.encoder_layers else 0

    @property
    def encodes(self) -> bool:
        """Whether it is a stack of a model that has two, or both."""
        return self.row.decoder is not None or bool(self.row.cross)

    @property
    def row(self) -> Family:
        """The family's names."""
        return self.names or FAMILIES[self.family]

    def has(self, place: str) -> bool:
        """Whether it has this place, or its layers have."""
        if self.stacks:
            return any(stack.has(place) for stack in self.stacks)
        if place in CROSS:
            return place in self.row.cross
        if place in ("norm1", "norm2"):
            return place in self.row.norms
        # Where distances are those in the batch, a shorter prompt's masked slots would count.
        prompted = not self.row.images and self.row.positions is None and not self.encodes
        there = {"gate": self.gated, "attention": self.row.prefix, INPUT: prompted}
        return there.get(place, True)

    def lacks(self, place: str) -> str:
        """Why it does not have a place."""
        if place == "attention":
            return (
                f"models of family '{self.family}' compute attention by code of their own, which prefixes do not reach"
            )
        if place == INPUT:
            return f"models of family '{self.family}' have no room for prompts among their inputs"
        if place in CROSS:
            return "only layers of a decoder that attends to an encoder have it"
        return f"models of family '{self.family}' have none"

    @property
    def norm_bias(self) -> bool:
        """Whether its norms have a bias."""
        return self.row.norm_bias

    def rows(self, place: str) -> Rows:
        """Which outputs of the module of a place are the place's."""
        site, wide = self.row.site(place), self.width(place)[1]
        if site.parts == 1:
            return Rows(0, wide, wide)
        others = sum(self.sites[name][1] for name in ("q", "k", "v"))
        return site.rows(site.parts * wide if site.layout == "equal" else others, self.heads, self.kv_heads)

    def width(self, place: str) -> tuple[int, int]:
        """(In, out) of a place; `AutopeftError` for one that its layers lack."""
        if there := [stack.width(place) for stack in self.stacks if stack.has(place)]:
            return max(one for one, _ in there), max(other for _, other in there)
        if place == "gate" and not self.gated:
            raise AutopeftError(f"model family '{self.family}': has no gate, as its feed-forward network is not gated")
        if not self.has(place):
            raise AutopeftError(self.lacks(place))
        if place == INPUT:
            return self.embedding or self.hidden, self.embedding or self.hidden
        if place == "down_in":
            return self.ffn, self.ffn
        if place in ("layer", "layer_in", "norm1", "norm2"):
            return self.hidden, self.hidden
        return self.sites["up" if place == "gate" else place]
