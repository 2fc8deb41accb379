"""Tiny random models of every family, and what tests do with them.

Shapes: N sequences, L tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from autopeft.anatomy import CROSS
from autopeft.attaching import Banks
from autopeft.engine.pack import Pack
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, Method
from autopeft.methods._bank import Bank
from autopeft.methods._procedure import HOOKS, defines

# One thread is the fastest for matrices of this size, and sums in the same order everywhere.
torch.set_num_threads(1)

LAYERS, HIDDEN, HEADS, FFN, VOCAB, LABELS = 3, 32, 4, 48, 99, 3

_BERT = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": FFN,
    "max_position_embeddings": 64,
}
_DISTILBERT = {
    "vocab_size": VOCAB,
    "dim": HIDDEN,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "hidden_dim": FFN,
    "pad_token_id": 0,
}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GPT2 = _SPECIAL | {
    "vocab_size": VOCAB,
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": FFN,
    "n_positions": 64,
}
_LLAMA = _BERT | _SPECIAL | {"num_key_value_heads": 2}

#: A configuration by family: all that `autopeft.anatomy` knows, held by a test.
CONFIGS: dict[str, Callable[..., PretrainedConfig]] = {
    "bert": lambda **o: BertConfig(**_BERT | {"pad_token_id": 0} | o),
    "roberta": lambda **o: RobertaConfig(**_BERT | {"pad_token_id": 1} | o),
    "electra": lambda **o: ElectraConfig(**_BERT | {"pad_token_id": 0, "embedding_size": 16} | o),
    "distilbert": lambda **o: DistilBertConfig(**_DISTILBERT | o),
    "gpt2": lambda **o: GPT2Config(**_GPT2 | o),
    "llama": lambda **o: LlamaConfig(**_LLAMA | o),
    "qwen2": lambda **o: Qwen2Config(**_LLAMA | o),
    "qwen3": lambda **o: Qwen3Config(**_LLAMA | {"head_dim": 16} | o),
}
FAMILIES = list(CONFIGS)
CAUSAL = ["gpt2", "llama", "qwen2", "qwen3"]
METHOD_NAMES = METHODS.names()
#: A handful of all kinds, for tests in which methods meet: each method has a conformance suite of its own.
TOGETHER = ["compacter", "ia3", "lora", "parallel", "prefix", "residual", "sequential"]


def classifier(family: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A sequence classifier with all weights random, in evaluation mode."""
    config = CONFIGS[family](num_labels=LABELS, **options)
    return randomise(AutoModelForSequenceClassification.from_config(config), seed)


def base_model(family: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    """The same without a head (and without BERT's pooler)."""
    config = CONFIGS[family](**options)
    pooler = {"add_pooling_layer": False} if family in ("bert", "roberta") else {}
    return randomise(AutoModel.from_config(config, **pooler), seed)


@torch.no_grad()
def randomise(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Draw every weight: transformers' own are so small that attention is nearly uniform, and biases are zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        norm = parameter.dim() == 1 and name.endswith("weight")
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + norm)
    return model.eval()


@torch.no_grad()
def perturb(module: nn.Module | Pack, seed: int = 1, scale: float = 0.3) -> None:
    """Add noise to all parameters, each from a generator of its own."""
    for i, parameter in enumerate(module.parameters()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1000 * seed + i))
        parameter.add_(noise * scale)


def tokens(sequences: int = 4, length: int = 7, seed: int = 0) -> torch.Tensor:
    """Token ids [N, L] without padding or special tokens."""
    return torch.randint(5, VOCAB, (sequences, length), generator=torch.Generator().manual_seed(seed))


def right_padded(model: PreTrainedModel, lengths: Sequence[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs [N, max(lengths)] padded on the right, with their mask."""
    ids = tokens(len(lengths), max(lengths), seed)
    mask = (torch.arange(ids.shape[1])[None] < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.where(mask.bool(), ids, model.config.pad_token_id), "attention_mask": mask}


def make(kind: str | type[Method], size: Any = 3, **options: Any) -> Method:
    """The method of that size at all its sites; nothing else is assumed of it.

    A size is one that the method has: a multiple of its step, and no more than its largest.
    """
    cls = METHODS.get(kind) if isinstance(kind, str) else kind
    if type(size) is int and size > 0:
        size = _allowed(cls, size)
    return cls(**{cls.size: size, "sites": cls.allowed_sites} | options)


def sized(cls: type[Method], small: int = 2, large: int = 5) -> tuple[int, int]:
    """A small and a large size of a method; one and the same of what is on or off."""
    if cls.name == "pasta":
        # Tiny texts have two special tokens.
        return 1, 2
    return _allowed(cls, small), _allowed(cls, large)


def _allowed(cls: type[Method], size: int) -> int:
    return min(-(-size // cls.step) * cls.step, cls.largest)


def everywhere(*methods: Method) -> Hybrid:
    """The methods in every layer; those of the whole model once."""
    return Hybrid.uniform(LAYERS, *methods)


def in_layers(chosen: Mapping[int, Sequence[Method]], layers: int = LAYERS) -> Hybrid:
    """The methods in the chosen layers; those of the whole model once, as the first of a kind says."""
    of_model = {m.name: m for methods in reversed(chosen.values()) for m in methods if m.of_model}
    inside = {i: [m for m in methods if not m.of_model] for i, methods in chosen.items()}
    return Hybrid.from_layers(layers, inside, of_model.values())


def by_token(hybrid: Hybrid) -> Hybrid:
    """Without methods that compute something once a batch or a step, which is no cost of a sequence."""

    def plain(method: Method) -> bool:
        hooked = any(defines(type(method), hook) for hook in HOOKS)
        return type(method).fixed_flops is Method.fixed_flops and not hooked and method.name != "peft"

    kept = [tuple(m for m in methods if plain(m)) for methods in (*hybrid.layers, hybrid.model)]
    return Hybrid(tuple(kept[:-1]), kept[-1])


def bank_parts(banks: Banks) -> list[tuple[str, Bank]]:
    """All banks with their names."""
    return [(name, module) for name, module in banks.named_modules() if isinstance(module, Bank)]


def own_gradients(banks: Banks, candidate: int = 0) -> dict[str, torch.Tensor]:
    """One candidate's gradients at its own sizes, named like `Banks.weights`."""
    found = {}
    for name, bank in bank_parts(banks):
        for part, size in bank.sizes[candidate].items():
            grad = getattr(bank, part).grad
            assert grad is not None, f"{name}.{part} has no gradient"
            found[f"{name}.{part}"] = grad[(candidate, *(slice(0, s) for s in size))]
    return found


def hybrids(layers: int = LAYERS, max_size: int = 4) -> st.SearchStrategy[Hybrid]:
    """Hybrids of any registered methods, up to four in a layer, of all sizes (0 is absent) at all sets of sites."""
    # Numbers stand for a method and a set of sites: drawing real sets takes most of a test's time.
    method = st.tuples(st.integers(0, len(METHOD_NAMES) - 1), st.integers(0, max_size), st.integers(0, 2**16 - 1))
    layer = st.lists(method, max_size=4, unique_by=lambda drawn: drawn[0])
    return st.tuples(*[layer.map(lambda drawn: tuple(_method(*one) for one in drawn))] * layers).map(_hybrid)


def _hybrid(layers: tuple[tuple[Method, ...], ...]) -> Hybrid:
    return in_layers(dict(enumerate(layers)), len(layers))


def _method(number: int, size: int, chosen: int) -> Method:
    name = METHOD_NAMES[number]
    # Those of every family: a gate stands in some only, and some norms have no bias.
    left_out = ("gate", "norm1", "norm2") if name == "bitfit" else ("gate", *CROSS)
    sites = [site for site in METHODS.get(name).allowed_sites if site not in left_out]
    chosen = 1 + chosen % (2 ** len(sites) - 1)
    return make(name, size, sites=tuple(site for i, site in enumerate(sites) if chosen >> i & 1))
