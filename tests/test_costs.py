"""Costs against what is counted: closed forms must be exact, to the last FLOP and byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, FAMILIES, LAYERS, TOGETHER, base_model, by_token, everywhere, hybrids, make, tokens
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from autopeft.anatomy import SITES, ModelShape, shape_from_config, shape_of
from autopeft.attaching import Attachment, Banks
from autopeft.attention import MATMUL
from autopeft.costs import COSTS
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import Method
from autopeft.methods.lora import LoRA
from autopeft.methods.parallel import Parallel
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential

each_family = pytest.mark.parametrize("family", FAMILIES)
each_cost = pytest.mark.parametrize("name", COSTS.names())

BATCH, LENGTH = 2, 5
MODELS = {family: base_model(family) for family in FAMILIES}
SHAPES = {family: shape_of(model) for family, model in MODELS.items()}


def cost(name: str, hybrid: Hybrid, shape: ModelShape, length: int = LENGTH) -> int:
    return COSTS.get(name)().of(hybrid, shape, length)


def in_layers(counter: FlopCounterMode) -> int:
    """FLOPs without the products outside the layers: ELECTRA widens its embeddings, some versions rotate by one."""
    outside = ("embeddings_project", "rotary_emb")
    counts = counter.get_flop_counts()
    return counter.get_total_flops() - sum(sum(c.values()) for n, c in counts.items() if n.endswith(outside))


def counted(model: PreTrainedModel, hybrid: Hybrid, train: bool) -> int:
    """What torch counts per example; two products and a softmax, as fused attention is not counted on all devices."""
    with Attachment(model, hybrid, attention=MATMUL), FlopCounterMode(display=False) as counter:
        with torch.set_grad_enabled(train):
            loss = model(input_ids=tokens(BATCH, LENGTH)).last_hidden_state.sum()
        if loss.requires_grad:
            loss.backward()
    per_example, rest = divmod(in_layers(counter), BATCH)
    assert rest == 0
    return per_example


def one_site(name: str, site: str, layer: int) -> Hybrid:
    return Hybrid.from_layers(LAYERS, {layer: [make(name, 3, sites=(site,))]})


def without_mergeable(hybrid: Hybrid) -> Hybrid:
    return Hybrid(tuple(tuple(m for m in methods if not m.mergeable) for methods in hybrid.layers), hybrid.model)


# --- FLOPs -----------------------------------------------------------------------------------------------------------


@each_family
@settings(max_examples=15)
@given(hybrid=hybrids())
@example(hybrid=everywhere())
@example(hybrid=everywhere(*(make(name) for name in TOGETHER)))
@example(hybrid=Hybrid.from_layers(LAYERS, {1: [LoRA(2, sites=("down",)), Sequential(3), Parallel(2)]}))
@example(hybrid=Hybrid.from_layers(LAYERS, {1: [LoRA(2, sites=("o",)), Sequential(3, sites=("o",))]}))
@example(hybrid=Hybrid.from_layers(LAYERS, {0: [Parallel(2), Sequential(3, sites=("o", "down"))], 2: [Prefix(2)]}))
def test_training_flops_are_those_that_torch_counts(family: str, hybrid: Hybrid) -> None:
    hybrid = by_token(hybrid)
    assert cost("training_flops", hybrid, SHAPES[family]) == counted(MODELS[family], hybrid, train=True)


@pytest.mark.parametrize("family", ["bert", "gpt2", "qwen3"])
@pytest.mark.parametrize("layer", [0, 1])
def test_training_flops_of_every_pair_of_sites_of_lora(family: str, layer: int) -> None:
    for first in SITES:
        for second in SITES[SITES.index(first) :]:
            hybrid = Hybrid.from_layers(LAYERS, {layer: [LoRA(2, sites=(first, second))]})
            assert cost("training_flops", hybrid, SHAPES[family]) == counted(MODELS[family], hybrid, train=True), (
                first,
                second,
            )


@each_family
@settings(max_examples=10)
@given(hybrid=hybrids())
@example(hybrid=everywhere(*(make(name) for name in TOGETHER)))
def test_inference_flops_are_those_that_torch_counts_without_what_merges(family: str, hybrid: Hybrid) -> None:
    hybrid = by_token(hybrid)
    expected = counted(MODELS[family], without_mergeable(hybrid), train=False)
    assert cost("inference_flops", hybrid, SHAPES[family]) == expected


@each_family
def test_the_head_only_costs_a_forward_pass(family: str) -> None:
    shape, empty = SHAPES[family], everywhere()
    inference = COSTS.get("inference_flops")()
    assert (
        cost("training_flops", empty, shape) == inference.of(empty, shape, LENGTH) == inference.reference(shape, LENGTH)
    )


def test_a_higher_first_layer_saves_the_backward_pass_below() -> None:
    shape = SHAPES["bert"]
    low, middle, high = (cost("training_flops", one_site("lora", "q", layer), shape) for layer in range(3))
    assert low - middle == middle - high > 0


@each_family
def test_full_fine_tuning_is_the_reference_of_training(family: str) -> None:
    model, shape = MODELS[family], SHAPES[family]
    reference = COSTS.get("training_flops")().reference(shape, LENGTH)
    model.set_attn_implementation(MATMUL)
    with FlopCounterMode(display=False) as counter:
        model.requires_grad_(True)
        model(input_ids=tokens(BATCH, LENGTH)).last_hidden_state.sum().backward()
    model.requires_grad_(False).zero_grad()
    model.set_attn_implementation("sdpa")
    assert reference * BATCH == in_layers(counter)


# --- parameters and bytes --------------------------------------------------------------------------------------------


def _is_dense(method: Method, shape: ModelShape) -> bool:
    """Whether all that is exported of it are whole tensors in fp32."""
    form = method.exported()
    declared = [w for place in form.places(shape) for w in form.weights(shape, place).values()]
    return all(w.bits == 32 and w.kept is None for w in (*declared, *form.shared(shape).values()))


@settings(max_examples=25)
@given(hybrid=hybrids(), family=st.sampled_from(FAMILIES))
def test_parameters_and_bytes_are_those_of_the_tensors(hybrid: Hybrid, family: str) -> None:
    shape = SHAPES[family]
    assert cost("trainable_params", hybrid, shape) == Banks([hybrid], shape, [0]).trained_count()
    plain = [[m for m in methods if _is_dense(m, shape)] for methods in hybrid.layers]
    try:
        exported = Hybrid(tuple(tuple(m.exported() for m in methods) for methods in plain))
    except AutopeftError:
        # Two methods that fold to one kind at one place.
        return
    weights = Banks([exported], shape, [0]).weights().values()
    assert cost("stored_bytes", Hybrid(tuple(map(tuple, plain))), shape) == sum(w.numel() * 4 for w in weights)


def test_stored_bytes_are_those_of_the_file_but_for_its_header(tmp_path: Path) -> None:
    hybrid = everywhere(*(make(name) for name in TOGETHER))
    weights = {n: w.detach().contiguous() for n, w in Banks([hybrid], SHAPES["gpt2"], [0]).weights().items()}
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size - header == cost("stored_bytes", hybrid, SHAPES["gpt2"])
    assert load_file(path).keys() == weights.keys()


@each_family
def test_references_are_the_backbones(family: str) -> None:
    shape = SHAPES[family]
    parameters = sum(p.numel() for p in MODELS[family].parameters())
    pooler = shape_from_config(CONFIGS[family]()).backbone_params - parameters
    assert pooler == (32 * 33 if family == "bert" else 0)
    assert COSTS.get("trainable_params")().reference(shape, LENGTH) == parameters
    assert COSTS.get("stored_bytes")().reference(shape, LENGTH) == 4 * parameters


# --- every cost ------------------------------------------------------------------------------------------------------


@each_cost
@settings(max_examples=40)
@given(hybrid=hybrids(), family=st.sampled_from(FAMILIES), data=st.data())
def test_costs_are_never_below_zero_and_grow_with_every_size(
    name: str, hybrid: Hybrid, family: str, data: st.DataObject
) -> None:
    shape = SHAPES[family]
    before = cost(name, hybrid, shape)
    assert isinstance(before, int)
    assert before >= 0
    layer = data.draw(st.integers(0, LAYERS - 1))
    for i, method in enumerate(hybrid.layers[layer]):
        if method.name == "peft" or method.size_value + method.step > method.largest:
            # Some tuners cost less the larger their size; the space sorts those.
            continue
        larger = replace(method, **{method.size: method.size_value + method.step})
        methods = (*hybrid.layers[layer][:i], larger, *hybrid.layers[layer][i + 1 :])
        grown = Hybrid((*hybrid.layers[:layer], methods, *hybrid.layers[layer + 1 :]), hybrid.model)
        after = cost(name, grown, shape)
        assert after >= before
        assert after > before or name != "trainable_params"
    absent = Hybrid((*hybrid.layers[:layer], (), *hybrid.layers[layer + 1 :]), hybrid.model)
    assert cost(name, absent, shape) <= before


@each_cost
def test_costs_say_what_they_are_and_have_a_reference_above_zero(name: str) -> None:
    kind = COSTS.get(name)
    assert kind.description
    assert kind.unit
    assert isinstance(kind().reference(SHAPES["bert"], LENGTH), int)
    assert kind().reference(SHAPES["bert"], LENGTH) > 0


@each_cost
def test_a_hybrid_of_another_depth_has_no_cost(name: str) -> None:
    with pytest.raises(AutopeftError, match="made for 2 layers"):
        cost(name, Hybrid.uniform(2, LoRA(2)), SHAPES["bert"])


def test_costs_at_the_size_of_bert_base() -> None:
    config = CONFIGS["bert"](hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12)
    shape, hybrid = shape_from_config(config), Hybrid.uniform(12, LoRA(8))
    assert cost("trainable_params", hybrid, shape) == 12 * 24_576
    assert cost("stored_bytes", hybrid, shape) == 12 * 24_576 * 4
    # 24 d^2 L + 4 d L^2 a layer, with d = 768, L = 128.
    assert cost("inference_flops", hybrid, shape, 128) == 12 * (24 * 768**2 * 128 + 4 * 768 * 128**2)
