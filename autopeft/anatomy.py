"""Where q, k, v, o, the feed-forward network and the layers of a model family are: names only, no code a family.

Shape letters used everywhere: L layers (or tokens, where said), d hidden width, f width of the feed-forward network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autopeft.checkpoint import MOST, check_sizes
from autopeft.doors import door
from autopeft.errors import AutopeftError, suggest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

#: The linear maps of a layer that methods act on, in the order in which a layer computes them.
SITES = ("q", "k", "v", "o", "up", "down")


@dataclass(frozen=True)
class Family:
    """Dotted names of one model family.

    `layers` and `embeddings` (the module that looks tokens up) are relative to the base model (`model.base_model`), the
    rest to a layer. A site that is one of n equal
    parts of a fused linear map is written `name:i/n`. `gate` is the second input map of a gated feed-forward network.
    `heads` are the modules on top of the base model that a task trains from scratch. `residual`, for families whose
    heads read the first token only: the module that is given attention's output and what is added to it, after which a
    layer works token by token.
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
    heads: tuple[str, ...] = ("score",)
    embeddings: str = "embeddings"
    causal: bool = False
    residual: str | None = None
    segments: bool = False
    counts_padding: bool = False

    def site(self, name: str) -> Site:
        """Where site `name` of a layer is."""
        module, _, part = getattr(self, name).partition(":")
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
        embeddings="wte",
        causal=True,
    ),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


@dataclass(frozen=True)
class ModelShape:
    """All that counting needs to know of a backbone; every layer has the same shape.

    `sites` maps a site to (in, out) of its linear map; `backbone_params` is the number of parameters of the base model
    without the task's head; `gated` says that the feed-forward network has a second input map of the shape of `up`.
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


@dataclass(frozen=True)
class InputLimits:
    """What a model can be given: token ids below `vocabulary`, `tokens` of them at most, segment ids below `segments`.

    `segments` is None for families that look none up.
    """

    vocabulary: int
    tokens: int
    segments: int | None = None


def family_of(config: PretrainedConfig) -> Family:
    """The family's row; `AutopeftError` names the family and the known ones."""
    kind = str(getattr(config, "model_type", ""))
    if kind not in FAMILIES:
        raise AutopeftError(unsupported(kind))
    return FAMILIES[kind]


def unsupported(kind: str) -> str:
    """What to say of a family without a row."""
    return f"model family '{kind:.100}' is not supported; {suggest(kind, FAMILIES)}"


def input_limits(config: PretrainedConfig) -> InputLimits:
    """What a model of this configuration can be given; rotary positions end where the model was made for no more."""
    family = family_of(config)
    tokens = int(config.max_position_embeddings)
    if family.counts_padding:
        tokens -= (config.pad_token_id or 0) + 1
    if tokens < 1:
        raise AutopeftError(
            f"model family '{config.model_type}': max_position_embeddings leaves no position for a token"
        )
    return InputLimits(int(config.vocab_size), tokens, int(config.type_vocab_size) if family.segments else None)


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The backbone's layers, lowest first; the row of names is checked against the model."""
    family = family_of(model.config)
    layers = list(_walk(_base(model), family.layers, model).children())
    for name in (
        family.attention,
        *(family.site(s).module for s in SITES),
        *([family.gate] if family.gate else []),
    ):
        _walk(layers[0], name, model)
    return layers


def embeddings_of(model: PreTrainedModel) -> nn.Module:
    """The module that turns token ids into vectors."""
    return _walk(_base(model), family_of(model.config).embeddings, model)


def head_names(model: PreTrainedModel) -> list[str]:
    """Dotted names, in `model`, of the head modules that are there (none on a bare base model)."""
    return [name for name in family_of(model.config).heads if hasattr(model, name)]


def shape_of(model: PreTrainedModel) -> ModelShape:
    """The shape of a model, read from its modules (they may be on the meta device)."""
    family, layers = family_of(model.config), layers_of(model)
    sites = {name: _in_out(layers[0], family.site(name)) for name in SITES}
    if any(_in_out(layer, family.site(name)) != wide for layer in layers for name, wide in sites.items()):
        raise AutopeftError(f"model family '{model.config.model_type}': its layers are not all of one shape")
    hidden = sites["q"][0]
    query_heads = int(model.config.num_attention_heads)
    head_dim = sites["q"][1] // query_heads
    return ModelShape(
        family=str(model.config.model_type),
        layers=len(layers),
        hidden=hidden,
        ffn=sites["up"][1],
        heads=query_heads,
        kv_heads=sites["k"][1] // head_dim,
        head_dim=head_dim,
        sites=sites,
        backbone_params=sum(p.numel() for p in _base(model).parameters()),
        gated=family.gate is not None,
        causal=family.causal,
    )


def shape_from_config(config: PretrainedConfig, trust_remote_code: bool = False) -> ModelShape:
    """The shape of the model that a configuration describes, without allocating its weights."""
    return shape_of(_without_weights(config, trust_remote_code))


def head_params_from_config(config: PretrainedConfig, trust_remote_code: bool = False) -> int:
    """Parameters of the head on the model that a configuration describes, without allocating its weights."""
    model = _without_weights(config, trust_remote_code)
    return sum(p.numel() for name in head_names(model) for p in model.get_submodule(name).parameters())


def _without_weights(config: PretrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForSequenceClassification

    family_of(config)
    place = f"model family '{config.model_type}'"
    build = AutoModelForSequenceClassification.from_config
    with torch.device("meta"), door(place, "no model can be built from this configuration", "mend config.json"):
        check_sizes({name: getattr(config, name, None) for name in (*MOST, "pad_token_id")}, f"{place}: configuration")
        model: PreTrainedModel = build(config, trust_remote_code=trust_remote_code)
    return model


def _base(model: PreTrainedModel) -> Any:
    return model.base_model


def _walk(root: nn.Module, name: str, model: PreTrainedModel) -> nn.Module:
    try:
        return root.get_submodule(name)
    except AttributeError as error:
        raise AutopeftError(
            f"model family '{model.config.model_type}': {type(model).__name__} has no module '{name}'; "
            f"the family's row in autopeft/anatomy.py does not fit this version of transformers"
        ) from error


def _in_out(layer: nn.Module, site: Site) -> tuple[int, int]:
    module: Any = layer.get_submodule(site.module)
    # Not from the weight of a linear map: quantised ones are packed. transformers' Conv1D (GPT-2) has [in, out].
    conv = hasattr(module, "nf")
    wide_in, wide_out = (module.weight.shape[0], module.nf) if conv else (module.in_features, module.out_features)
    return int(wide_in), int(wide_out) // site.parts
