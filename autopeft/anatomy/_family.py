"""What a row of names says of a model family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from autopeft.anatomy._sites import Site
from autopeft.errors import AutopeftError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: The linear maps that every layer has, in the order in which it computes them.
SITES = ("q", "k", "v", "o", "up", "down")
#: With the second input map of a gated feed-forward network.
MAPS = ("q", "k", "v", "o", "up", "gate", "down")
#: What models and papers call these maps, by which a place may be named too; `output` or `dense` would be several.
SYNONYMS = {
    **dict.fromkeys(("q_proj", "query", "query_proj"), "q"),
    **dict.fromkeys(("k_proj", "key", "key_proj"), "k"),
    **dict.fromkeys(("v_proj", "value", "value_proj"), "v"),
    **dict.fromkeys(("o_proj", "out_proj"), "o"),
    **dict.fromkeys(("up_proj", "fc1", "intermediate"), "up"),
    "gate_proj": "gate",
    **dict.fromkeys(("down_proj", "fc2"), "down"),
}
#: The maps of a decoder's attention to what the encoder gives.
CROSS = ("cross.q", "cross.k", "cross.v", "cross.o")
#: The place of methods of the whole model: vectors among those that its tokens are looked up as.
INPUT = "input"
#: All that methods may act on: that, and of a layer the outputs of maps and norms, its own input and output, the input
#: of `down`, and the keys and values of its attention.
PLACES = (
    INPUT,
    "layer_in",
    "attention",
    "q",
    "k",
    "v",
    "o",
    "norm1",
    *CROSS,
    "up",
    "gate",
    "down_in",
    "down",
    "norm2",
    "layer",
)


@dataclass(frozen=True)
class Family:
    """Dotted names of one model family.

    `layers` and `embeddings` (the module that looks tokens up) are relative to the base model (`model.base_model`), the
    rest to a layer. Maps that are fused in one are written as `Site.read` reads them. `gate` is the second input map of
    a gated feed-forward network.
    `norm1` and `norm2` belong to attention and feed-forward network ("": there is none), and stand before them when
    `norm_first`; those of `norm_bias` have one. `parallel`: the feed-forward network is given the layer's input, not
    what attention made of it.
    `heads` are the modules on top of the base model that a task may train from scratch: which of them a model has
    depends on the task. `residual`, for families whose sequence heads read the first token only: the module that is
    given attention's output and what is added to it, after which a layer works token by token.
    `prefix`: whether attention is transformers' interface, so that prefixes reach it. `pair`: a layer gives its output
    and its attention's weights. `kv_heads` is the field of the configuration with the number of key/value heads, or
    that number. `images`: it is given pixels, and looks nothing up.
    `positions`: the method of the attention module that puts embeddings of positions, which are those of all sequences,
    through the maps of queries and keys.
    `decoder`: of models with two stacks, the row of the upper one's layers, which attend to what the lower one gives by
    the maps `cross_q` to `cross_o`. `query_heads` is the field with the number of heads. `wraps`: texts of the decoder
    begin with their own last token, where the configuration names none.
    `when` has (field of the configuration, value, names that are others then), in the order in which they apply;
    `refused` are fields that must not be set, as the row does not hold then.
    """

    layers: str
    attention: str
    q: str
    k: str
    v: str
    o: str
    up: str
    down: str
    gate: str | None = None
    norm1: str = ""
    norm2: str = ""
    norm_first: bool = False
    norm_bias: bool = True
    parallel: bool = False
    heads: tuple[str, ...] = ("score",)
    embeddings: str = "embeddings"
    causal: bool = False
    residual: str | None = None
    segments: bool = False
    counts_padding: bool = False
    prefix: bool = True
    pair: bool = False
    kv_heads: str | int = "num_key_value_heads"
    images: bool = False
    positions: str | None = None
    cross_q: str = ""
    cross_k: str = ""
    cross_v: str = ""
    cross_o: str = ""
    decoder: Family | None = None
    query_heads: str = "num_attention_heads"
    wraps: bool = False
    when: tuple[tuple[str, Any, Mapping[str, Any]], ...] = field(default=(), hash=False)
    refused: tuple[str, ...] = ()

    def site(self, name: str) -> Site:
        """Where place `name` of a layer is; the layer itself has the empty name."""
        own = {"layer": "", "layer_in": "", "down_in": self.down}
        return Site.read(own[name] if name in own else getattr(self, name.replace(".", "_")))

    @property
    def stacks(self) -> tuple[Family, ...]:
        """The rows of the stacks of layers, lowest first."""
        return (self, *([self.decoder] if self.decoder else []))

    @property
    def cross(self) -> tuple[str, ...]:
        """The places of its attention to another stack."""
        return CROSS if self.cross_q else ()

    @property
    def maps(self) -> tuple[str, ...]:
        """The modules of a layer that are its linear maps, each once."""
        places = (*SITES, *self.cross, *(["gate"] if self.gate else []))
        return tuple(dict.fromkeys(self.site(place).module for place in places))

    @property
    def norms(self) -> tuple[str, ...]:
        """Which of the two norms there are."""
        return tuple(name for name in ("norm1", "norm2") if getattr(self, name))

    def of(self, config: PretrainedConfig) -> Self:
        """The row for one configuration; `AutopeftError` for one that it does not hold for."""
        for name in self.refused:
            if getattr(config, name, None):
                raise AutopeftError(
                    f"model family '{config.model_type}': models with '{name}' are not supported; take another model"
                )
        row = self
        for name, value, names in self.when:
            if getattr(config, name, None) == value:
                row = replace(row, **names)
        return row if row.decoder is None else replace(row, decoder=row.decoder.of(config))

    def kv_heads_of(self, config: PretrainedConfig) -> int:
        """How many key/value heads a model has."""
        given = self.kv_heads if isinstance(self.kv_heads, int) else getattr(config, self.kv_heads, None)
        return int(given or self.heads_of(config))

    def heads_of(self, config: PretrainedConfig) -> int:
        """How many heads a model has."""
        return int(getattr(config, self.query_heads))
