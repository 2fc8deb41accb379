from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tiny_families import LISTED
from tiny_models import CONFIGS, FAMILIES, FFN, HEADS, HIDDEN, LAYERS, base_model, classifier
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BlenderbotConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from autopeft import anatomy
from autopeft.anatomy import (
    SITES,
    Rows,
    Site,
    family_of,
    head_names,
    joined,
    layers_of,
    shape_from_config,
    shape_of,
)
from autopeft.errors import AutopeftError

each_family = pytest.mark.parametrize("family", FAMILIES)

#: (in, out) of k and v by family; the others have multi-head attention.
GROUPED = {"llama": (HIDDEN, 16), "qwen2": (HIDDEN, 16), "qwen3": (HIDDEN, 32)}


def test_every_family_is_tested() -> None:
    """Those with an encoder and a decoder by tests of their own."""
    assert {*FAMILIES, *LISTED} == {name for name, row in anatomy.FAMILIES.items() if row.decoder is None}


@each_family
def test_the_shape_of_a_configuration_is_that_of_its_model(family: str) -> None:
    shape = shape_of(classifier(family))
    assert shape_from_config(CONFIGS[family](num_labels=3)) == shape
    assert (shape.family, shape.layers, shape.hidden, shape.ffn, shape.heads) == (family, LAYERS, HIDDEN, FFN, HEADS)
    assert shape.kv_heads == (2 if family in GROUPED else HEADS)
    assert shape.head_dim == (16 if family == "qwen3" else 8)
    assert shape.gated == (family in GROUPED)
    assert shape.causal == (family in GROUPED or family == "gpt2")


@each_family
def test_the_shape_of_a_configuration_needs_no_weights(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []
    real = AutoModelForSequenceClassification.from_config

    def spy(config: PretrainedConfig, **options: object) -> object:
        model = real(config, **options)
        made.extend(p.device for p in model.parameters())
        return model

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_config", spy)
    huge = {"vocab_size": 1_000_000}
    assert shape_from_config(CONFIGS[family](**huge)).backbone_params > 16_000_000
    assert {device.type for device in made} == {"meta"}


@each_family
def test_the_backbone_is_counted_without_the_head(family: str) -> None:
    model = classifier(family)
    head = sum(p.numel() for n, p in model.named_parameters() if n.startswith(tuple(head_names(model))))
    total = sum(p.numel() for p in model.parameters())
    assert shape_of(model).backbone_params == total - head == sum(p.numel() for p in model.base_model.parameters())
    assert head > 0


@each_family
def test_sites_have_the_widths_of_their_maps(family: str) -> None:
    shape = shape_of(classifier(family))
    attention = (HIDDEN, shape.heads * shape.head_dim)
    grouped = GROUPED.get(family, (HIDDEN, HIDDEN))
    assert shape.sites == {
        "q": attention,
        "k": grouped,
        "v": grouped,
        "o": attention[::-1],
        "up": (HIDDEN, FFN),
        "down": (FFN, HIDDEN),
    }
    assert tuple(shape.sites) == SITES


def input_of(model: PreTrainedModel, read: str, changed: str, change: Callable[[torch.Tensor], None]) -> torch.Tensor:
    """What site `read` of layer 1 is given [L, in] when the output of site `changed` there is changed in place."""
    layer, row = layers_of(model)[1], family_of(model.config)
    site, rows, seen = row.site(changed), shape_of(model).rows(changed), {}

    def alter(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        part = rows.of(output, -1).clone()
        change(part)
        return joined(output, [(rows, part)])

    def keep(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen["x"] = args[0][0].clone()

    handles = [
        layer.get_submodule(site.module).register_forward_hook(alter),
        layer.get_submodule(row.site(read).module).register_forward_pre_hook(keep),
    ]
    with torch.no_grad():
        model(input_ids=torch.arange(5, 12)[None])
    for handle in handles:
        handle.remove()
    return seen["x"]


def assert_maps_are_named_after(model: PreTrainedModel, first: int = 7) -> None:
    """Each place is the map of its name, by what changes of the first tokens of seven when its output does."""

    def other_tokens(changed: str) -> list[int]:
        """The tokens whose attention changes when the first token's query (key, value) does."""
        before = input_of(model, "o", changed, lambda x: None)
        after = input_of(model, "o", changed, lambda x: x[:, :1].neg_())
        return [i for i in (before != after).any(-1).nonzero().flatten().tolist() if i < first]

    causal = family_of(model.config).causal
    assert other_tokens("q") == ([] if causal else [0])
    assert other_tokens("k") == list(range(1 if causal else 0, first))
    assert other_tokens("v") == list(range(first))
    assert input_of(model, "o", "v", torch.Tensor.zero_).count_nonzero() == 0
    assert input_of(model, "o", "k", torch.Tensor.zero_).count_nonzero() > 0
    assert input_of(model, "down", "up", torch.Tensor.zero_).count_nonzero() == 0


def up_is_linear(model: PreTrainedModel) -> bool:
    """Whether the FFN's inner activation doubles when the output of `up` does."""
    up, twice = (input_of(model, "down", "up", change) for change in (lambda x: None, lambda x: x.mul_(2)))
    return torch.allclose(twice, 2 * up)


@each_family
def test_sites_are_the_maps_that_they_are_named_after(family: str) -> None:
    model = base_model(family)
    assert_maps_are_named_after(model)
    assert up_is_linear(model) == shape_of(model).gated, "the gate goes through the non-linearity, up does not"


def test_a_fused_map_is_cut_into_q_k_v_in_this_order() -> None:
    row = anatomy.FAMILIES["gpt2"]
    assert [row.site(s) for s in ("q", "k", "v")] == [Site("attn.c_attn", i, 3) for i in range(3)]
    assert row.site("o") == Site("attn.c_proj", 0, 1)
    shape = shape_from_config(CONFIGS["gpt2"]())
    assert [shape.rows(s) for s in ("q", "k", "v")] == [Rows(i * HIDDEN, HIDDEN, 3 * HIDDEN) for i in range(3)]


@each_family
def test_layers_and_heads_are_found_on_any_model_of_the_family(family: str) -> None:
    model, base = classifier(family), base_model(family)
    assert len(layers_of(model)) == len(layers_of(base)) == LAYERS
    assert head_names(base) == []
    assert shape_of(base).sites == shape_of(model).sites
    trained = set(head_names(model))
    assert trained
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {model.base_model_prefix, *trained}


def test_an_unknown_family_is_named_with_the_known_ones() -> None:
    for config in (BlenderbotConfig(), PretrainedConfig()):
        with pytest.raises(AutopeftError) as caught:
            shape_from_config(config)
        said = str(caught.value)
        assert f"model family '{config.model_type}' is not supported" in said
        assert all(family in said for family in FAMILIES)
    near = BertConfig()
    near.model_type = "robert"
    with pytest.raises(AutopeftError, match="did you mean 'roberta'"):
        family_of(near)


@pytest.mark.parametrize(
    ("field", "name"), [("layers", "encoder.floors"), ("q", "attention.self.q"), ("attention", "attn"), ("gate", "g")]
)
def test_a_row_that_does_not_fit_says_what_is_missing(field: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(anatomy.FAMILIES["bert"], **{field: name})
    monkeypatch.setattr(anatomy._families, "FAMILIES", {"bert": row})
    with pytest.raises(AutopeftError) as caught:
        shape_from_config(CONFIGS["bert"]())
    said = str(caught.value)
    assert "model family 'bert': " in said
    assert f"has no module '{name}'" in said
    assert "autopeft/anatomy/_families.py does not fit this version of transformers" in said
