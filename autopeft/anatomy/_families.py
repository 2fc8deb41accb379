"""Names of places in each model family: rows, no code a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autopeft.errors import AutopeftError, suggest

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: The linear maps that every layer has, in the order in which it computes them.
SITES = ("q", "k", "v", "o", "up", "down")
#: With the second input map of a gated feed-forward network.
MAPS = ("q", "k", "v", "o", "up", "gate", "down")
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
    rest to a layer. A site that is one of n equal
    parts of a fused linear map is written `name:i/n`. `gate` is the second input map of a gated feed-forward network.
    `norm1` and `norm2` belong to attention and feed-forward network, and stand before them when `norm_first`;
    those of `norm_bias` have one.
    `heads` are the modules on top of the base model that a task may train from scratch: which of them a model has
    depends on the task. `residual`, for families whose sequence heads read the first token only: the module that is
    given attention's output and what is added to it, after which a layer works token by token.
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
    heads: tuple[str, ...] = ("score",)
    embeddings: str = "embeddings"
    causal: bool = False
    residual: str | None = None
    segments: bool = False
    counts_padding: bool = False

    def site(self, name: str) -> Site:
        """Where place `name` of a layer is; the layer itself has the empty name."""
        own = {"layer": "", "layer_in": "", "down_in": self.down}
        module, _, part = (own[name] if name in own else getattr(self, name)).partition(":")
        if not part:
            return Site(module, 0, 1)
        index, _, parts = part.partition("/")
        return Site(module, int(index), int(parts))


@dataclass(frozen=True)
class Site:
    """Part `index` of `parts` equal slices of the output of the linear map `module`."""

    module: str
    index: int
    parts: int


_BERT = Family(
    layers="encoder.layer",
    attention="attention.self",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    o="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    norm1="attention.output.LayerNorm",
    norm2="output.LayerNorm",
    heads=("classifier",),
    residual="attention.output",
    segments=True,
)
_LLAMA = Family(
    layers="layers",
    attention="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.o_proj",
    up="mlp.up_proj",
    gate="mlp.gate_proj",
    down="mlp.down_proj",
    norm1="input_layernorm",
    norm2="post_attention_layernorm",
    norm_first=True,
    norm_bias=False,
    embeddings="embed_tokens",
    causal=True,
)

#: By the configuration's `model_type`. To add a family, add a row.
FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": replace(_BERT, counts_padding=True),
    "electra": _BERT,
    "distilbert": Family(
        layers="transformer.layer",
        attention="attention",
        q="attention.q_lin",
        k="attention.k_lin",
        v="attention.v_lin",
        o="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        norm1="sa_layer_norm",
        norm2="output_layer_norm",
        heads=("pre_classifier", "classifier"),
    ),
    "gpt2": Family(
        layers="h",
        attention="attn",
        q="attn.c_attn:0/3",
        k="attn.c_attn:1/3",
        v="attn.c_attn:2/3",
        o="attn.c_proj",
        up="mlp.c_fc",
        down="mlp.c_proj",
        norm1="ln_1",
        norm2="ln_2",
        norm_first=True,
        embeddings="wte",
        causal=True,
        heads=("score", "classifier"),
    ),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def family_of(config: PretrainedConfig) -> Family:
    """The family's row; `AutopeftError` names the family and the known ones."""
    kind = str(getattr(config, "model_type", ""))
    if kind not in FAMILIES:
        raise AutopeftError(unsupported(kind))
    return FAMILIES[kind]


def unsupported(kind: str) -> str:
    """What to say of a family without a row."""
    return f"model family '{kind:.100}' is not supported; {suggest(kind, FAMILIES)}"
