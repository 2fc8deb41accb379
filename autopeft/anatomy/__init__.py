"""Where q, k, v, o, the feed-forward network and the layers of a model family are: names only, no code a family.

Shape letters used everywhere: L layers (or tokens, where said), d hidden width, f width of the feed-forward network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autopeft.anatomy._families import FAMILIES, INPUT, MAPS, PLACES, SITES, Family, Site, family_of, unsupported
from autopeft.checkpoint import MOST, check_sizes
from autopeft.doors import door
from autopeft.errors import AutopeftError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = [
    "FAMILIES", "INPUT", "MAPS", "PLACES", "SITES", "Family", "InputLimits", "ModelShape", "Site", "TrainingLoad",
    "embeddings_of", "family_of", "head_names", "input_limits", "layers_of", "shape_from_config", "shape_of",
    "unsupported", "vocabulary_of", "without_weights",
]  # fmt: skip

#: The places that are modules with a weight, and perhaps a bias.
_WITH_WEIGHTS = (*MAPS, "norm1", "norm2")


@dataclass(frozen=True)
class TrainingLoad:
    """How a backbone is trained on, as far as its memory depends on it.

    Batches have `sequences`, of which so many go through at once as have `tokens` together, one at least. Numbers of
    the backbone and of activations have `bytes`, those of its layers' maps `map_bytes`. `scores`: attention keeps its
    scores. `checkpoint`: layers are computed again in the backward pass. `logits` are in memory at once. `holes`: what
    activations take over what they are, as an allocator cannot use all that is free between them (measured with
    glibc's; of a GPU's own what is taken counts).
    """

    sequences: int = 32
    tokens: int = 4_096
    bytes: int = 4
    map_bytes: float = 4
    scores: bool = False
    checkpoint: bool = False
    logits: int = 2**23
    holes: float = 1.3

    def at_once(self, length: int) -> int:
        """Sequences of a length that go through at once."""
        parts = -(-self.sequences // max(1, self.tokens // length))
        return -(-self.sequences // parts)


@dataclass(frozen=True)
class ModelShape:
    """All that counting needs to know of a backbone; every layer has the same shape.

    `sites` maps a site to (in, out) of its linear map; `backbone_params` is the number of parameters of the base model
    without the task's head; `gated` says that the feed-forward network has a second input map of the shape of `up`,
    `biased` which maps and norms have a bias, `embedding` the width that tokens are looked up with (0: that of the
    layers), and `words` how many outputs the frozen head of a language model has (0: it has none).
    `own_head` are the numbers of that head which are not the embeddings', and `load` says how it is trained on.
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
    load: TrainingLoad = TrainingLoad()

    def has(self, place: str) -> bool:
        """Whether it has this place, or its layers have."""
        return place != "gate" or self.gated

    @property
    def norm_bias(self) -> bool:
        """Whether its norms have a bias."""
        return FAMILIES[self.family].norm_bias

    def width(self, place: str) -> tuple[int, int]:
        """(In, out) of a place; `AutopeftError` for one that its layers lack."""
        if not self.has(place):
            raise AutopeftError(f"model family '{self.family}': has no gate, as its feed-forward network is not gated")
        if place == INPUT:
            return self.embedding or self.hidden, self.embedding or self.hidden
        if place == "down_in":
            return self.ffn, self.ffn
        if place in ("layer", "layer_in", "norm1", "norm2"):
            return self.hidden, self.hidden
        return self.sites["up" if place == "gate" else place]


@dataclass(frozen=True)
class InputLimits:
    """What a model can be given: token ids below `vocabulary`, `tokens` of them at most, segment ids below `segments`.

    `segments` is None for families that look none up.
    """

    vocabulary: int
    tokens: int
    segments: int | None = None


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
        family.norm1,
        family.norm2,
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
        backbone_params=sum(_numbers(p) for p in _base(model).parameters()),
        gated=family.gate is not None,
        causal=family.causal,
        biased=frozenset(place for place in _WITH_WEIGHTS if _has_bias(layers[0], family, place)),
        embedding=_table(model).shape[1] if _table(model).shape[1] != hidden else 0,
        words=_words(model),
        own_head=_own_head(model),
    )


def _words(model: PreTrainedModel) -> int:
    head: Any = model.get_output_embeddings()
    return 0 if head is None else int(head.weight.shape[0])


def _own_head(model: PreTrainedModel) -> int:
    head: Any = model.get_output_embeddings()
    tied = head is None or bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    return 0 if tied else sum(int(p.numel()) for p in head.parameters())


def vocabulary_of(model: PreTrainedModel) -> torch.Tensor | None:
    """What tokens are looked up in [vocabulary, width]; None on the meta device."""
    table = _table(model).detach()
    return None if table.is_meta else table


def _table(model: PreTrainedModel) -> torch.Tensor:
    module: Any = model.get_input_embeddings()
    table: torch.Tensor = module.weight
    return table


#: Transformers' class of what a model is where no task says it.
AUTO_CLASS = "AutoModelForSequenceClassification"


def shape_from_config(
    config: PretrainedConfig, trust_remote_code: bool = False, auto_class: str = AUTO_CLASS
) -> ModelShape:
    """The shape of the model that a configuration describes, without allocating its weights."""
    return shape_of(without_weights(config, trust_remote_code, auto_class))


def without_weights(config: PretrainedConfig, trust_remote_code: bool, auto_class: str = AUTO_CLASS) -> PreTrainedModel:
    """The model that a configuration describes, of one of transformers' auto classes, on the meta device."""
    import torch
    import transformers

    family_of(config)
    place = f"model family '{config.model_type}'"
    build = getattr(transformers, auto_class).from_config
    with torch.device("meta"), door(place, "no model can be built from this configuration", "mend config.json"):
        check_sizes({name: getattr(config, name, None) for name in (*MOST, "pad_token_id")}, f"{place}: configuration")
        model: PreTrainedModel = build(config, trust_remote_code=trust_remote_code)
    return model


def _numbers(parameter: Any) -> int:
    """Numbers that a parameter stands for: of one in 4 bits, two a byte."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return math.prod(state.shape)
    return int(parameter.numel()) * (2 if str(parameter.dtype) == "torch.uint8" else 1)


def _base(model: PreTrainedModel) -> Any:
    return model.base_model


def _walk(root: nn.Module, name: str, model: PreTrainedModel) -> nn.Module:
    try:
        return root.get_submodule(name)
    except AttributeError as error:
        raise AutopeftError(
            f"model family '{model.config.model_type}': {type(model).__name__} has no module '{name}'; "
            f"the family's row in autopeft/anatomy/_families.py does not fit this version of transformers"
        ) from error


def _has_bias(layer: nn.Module, family: Family, place: str) -> bool:
    there = place != "gate" or family.gate is not None
    return there and getattr(layer.get_submodule(family.site(place).module), "bias", None) is not None


def _in_out(layer: nn.Module, site: Site) -> tuple[int, int]:
    module: Any = layer.get_submodule(site.module)
    # Not from the weight of a linear map: quantised ones are packed. transformers' Conv1D (GPT-2) has [in, out].
    conv = hasattr(module, "nf")
    wide_in, wide_out = (module.weight.shape[0], module.nf) if conv else (module.in_features, module.out_features)
    return int(wide_in), int(wide_out) // site.parts
