"""Every family computes with hybrids what it should; two of them in the default run, all others when asked for.

Shapes: K candidates, N sequences, L tokens, d width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import get_peft_model, set_peft_model_state_dict
from test_anatomy import assert_maps_are_named_after, up_is_linear
from tiny_families import APART, IMAGES, LISTED, MORE
from tiny_models import LAYERS, make, own_gradients, perturb, randomise, tokens
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from autopeft.anatomy import ModelShape, family_of, input_limits, shape_of
from autopeft.attaching import Attachment, try_hybrids
from autopeft.attention import FUSED, MATMUL
from autopeft.costs import COSTS
from autopeft.engine.entrances import Capture, Entrances
from autopeft.errors import AutopeftError
from autopeft.exporting._lora import lora_config, lora_state
from autopeft.hybrid import Hybrid
from autopeft.merging import merge
from autopeft.methods import Method
from autopeft.methods.lora import LoRA
from autopeft.methods.parallel import Parallel
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential

#: The rows of heads lie between each other; scores are capped, windows slide, and there is no SDPA of its own.
DEFAULT = ["gpt_neox", "gemma2"]


def families(names: Sequence[str]) -> pytest.MarkDecorator:
    marked = [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("family", marked)


CAUSAL = [name for name in MORE if family_of(MORE[name]()).causal]
TEXT = [name for name in MORE if name not in IMAGES]
FREE = [name for name in MORE if not name.startswith(tuple(APART))]


def model_of(family: str, **options: Any) -> PreTrainedModel:
    config = MORE[family](**options)
    kind = AutoModelForCausalLM if family in CAUSAL else AutoModel
    return randomise(kind.from_config(config), 0)


def attention_of(family: str) -> str | None:
    return MATMUL if family in FREE else None


def inputs_of(family: str, sequences: int = 3, length: int = 9) -> dict[str, torch.Tensor]:
    if family in IMAGES:
        return {"pixel_values": torch.randn(sequences, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
    mask = torch.ones(sequences, length, dtype=torch.long)
    mask[0, -3:] = 0
    return {"input_ids": tokens(sequences, length), "attention_mask": mask}


def hidden(model: Any, inputs: dict[str, torch.Tensor], count: int = 1) -> torch.Tensor:
    """[K, real tokens, d]."""
    repeated = {name: x.repeat(count, *[1] * (x.dim() - 1)) for name, x in inputs.items()}
    found: torch.Tensor = model.base_model(**repeated).last_hidden_state.unflatten(0, (count, -1))
    mask = inputs.get("attention_mask")
    return found.flatten(1, 2) if mask is None else found[:, mask.bool()]


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((one - other).abs().max() / other.abs().max()) < 1e-5)


def sites_of(shape: ModelShape) -> tuple[str, ...]:
    return ("q", "k", "v", "o", "up", *(["gate"] if shape.gated else []), "down")


def mixed(shape: ModelShape) -> list[Hybrid]:
    """Two sizes in one layer, an absent candidate, and other layers, by their first ones."""
    sites = sites_of(shape)
    around: list[Method] = [Prefix(3)] if shape.has("attention") else []
    fewer: list[Method] = [Prefix(2)] if shape.has("attention") else []
    return [
        Hybrid.from_layers(LAYERS, {0: [LoRA(2, sites=("q", "v", "up")), *fewer], 1: [LoRA(3, sites=sites), *around]}),
        Hybrid.from_layers(
            LAYERS, {1: [LoRA(5, sites=sites), Parallel(2), *fewer], 2: [Sequential(3, sites=("o", "down"))]}
        ),
        Hybrid.from_layers(LAYERS, {2: [LoRA(1, sites=("k",)), *around, make("residual", 2)]}),
    ]


# --- places ----------------------------------------------------------------------------------------------------------


@families([name for name in TEXT if name != "deberta-v2"])
def test_places_are_the_maps_that_they_are_named_after(family: str) -> None:
    model = model_of(family)
    # Windows end after three tokens.
    assert_maps_are_named_after(model, first=3)
    # OPT's ReLU doubles what is doubled.
    assert up_is_linear(model) == (shape_of(model).gated or family.startswith("opt"))


@families(list(MORE))
@torch.no_grad()
def test_by_hook_is_merged_and_is_stock_lora(family: str) -> None:
    model, inputs = model_of(family), inputs_of(family)
    shape, attention = shape_of(model), attention_of(family)
    bare = hidden(model, inputs)
    for site in sites_of(shape):
        hybrid = Hybrid.from_layers(LAYERS, {0: [LoRA(2, sites=(site,))], 2: [LoRA(3, sites=(site,), scale=2.0)]})
        with Attachment(model, hybrid, attention=attention) as attached:
            perturb(attached.banks)
            by_hook = hidden(model, inputs)
            weights = {name: w.clone() for name, w in attached.banks.weights().items()}
        assert not close(by_hook, bare), site
        merged = copy.deepcopy(model)
        merge(merged, hybrid, weights)
        assert close(hidden(merged, inputs), by_hook), site
        stock = copy.deepcopy(model)
        named = {f"hybrid.{name}": w for name, w in weights.items()}
        config = lora_config(hybrid, model, NoHead(), padded=False)
        tuned = get_peft_model(stock, config)
        assert not set_peft_model_state_dict(tuned, lora_state(hybrid, named, model, padded=False)).unexpected_keys
        assert close(hidden(stock, inputs), by_hook), site


class NoHead:
    """A readout that trains no head, as PEFT is told."""

    peft_task = "FEATURE_EXTRACTION"

    def heads(self, model: PreTrainedModel) -> list[str]:
        return []


# --- packs -----------------------------------------------------------------------------------------------------------


@families(list(MORE))
@pytest.mark.parametrize("attention", [FUSED, MATMUL])
def test_a_pack_is_its_members(family: str, attention: str) -> None:
    model, inputs = model_of(family), inputs_of(family)
    try_hybrids(model, family, attention)
    hybrids, alone = mixed(shape_of(model)), []
    weights = []
    for seed, hybrid in enumerate(hybrids):
        with Attachment(model, hybrid, attention=attention) as attached:
            perturb(attached.banks, seed + 1)
            found = hidden(model, inputs)[0]
            found.square().sum().backward()
            alone.append((found.detach(), own_gradients(attached.banks)))
            weights.append({name: w.clone() for name, w in attached.banks.weights().items()})
            assert attached.banks.trained_count() == hybrid.num_params(shape_of(model))
    starts = [h.first_adapted for h in hybrids]
    for entered in ([0] * len(hybrids), starts):
        states = states_of(model, inputs, attention, set(entered) - {0})
        with Attachment(model, hybrids, [0] * 3, attention, entered) as attached:
            for k, own in enumerate(weights):
                attached.banks.load(own, k)
            entrances = Entrances(model, entered)
            entrances.states = states
            packed = hidden(model, inputs, len(hybrids))
            packed.square().sum().backward()
            entrances.remove()
            for k, (expected, gradients) in enumerate(alone):
                assert close(packed[k].detach(), expected)
                for name, gradient in own_gradients_of(attached, k).items():
                    torch.testing.assert_close(gradient, gradients[name], rtol=1e-4, atol=1e-4 * largest(gradients))


def own_gradients_of(attached: Attachment, candidate: int) -> dict[str, torch.Tensor]:
    """Of one candidate's own weights."""
    return {
        name: weight.grad[corner]
        for name, (weight, corner) in attached.banks.parts(candidate).items()
        if weight.grad is not None
    }


def largest(gradients: dict[str, torch.Tensor]) -> float:
    return max(float(g.abs().max()) for g in gradients.values())


def states_of(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], attention: str, wanted: set[int]
) -> dict[int, torch.Tensor]:
    """Frozen inputs of layers."""
    if not wanted:
        return {}
    with Attachment(model, Hybrid.uniform(LAYERS), attention=attention), Capture(model.base_model, wanted) as capture:
        return dict(capture(inputs))


@families(TEXT)
@torch.no_grad()
def test_a_prompt_in_a_pack_is_the_prompt_alone(family: str) -> None:
    model, inputs = model_of(family), inputs_of(family)
    hybrids = [Hybrid.uniform(LAYERS, make("prompt_tuning", n)) for n in (2, 4)]
    if family.startswith("deberta-v2"):
        with pytest.raises(AutopeftError, match="'prompt_tuning' at input: models of family 'deberta-v2' have no room"):
            hybrids[0].check(shape_of(model))
        return
    if input_limits(model.config).prompted < 13:
        # What is masked would take room in the window.
        with Attachment(model, hybrids), pytest.raises(AutopeftError, match=r"set training\.max_length"):
            hidden(model, inputs, 2)
        model = model_of(family, **dict.fromkeys(("sliding_window", "local_attention"), 64))
    alone, weights = [], []
    for hybrid in hybrids:
        with Attachment(model, hybrid, attention=attention_of(family)) as attached:
            perturb(attached.banks)
            alone.append(hidden(model, inputs)[0])
            weights.append({name: w.clone() for name, w in attached.banks.weights().items()})
    with Attachment(model, hybrids, attention=attention_of(family)) as attached:
        for k, own in enumerate(weights):
            attached.banks.load(own, k)
        packed = hidden(model, inputs, 2)
    assert not close(alone[0], alone[1])
    for one, other in zip(packed, alone, strict=True):
        assert close(one, other)


# --- generation ------------------------------------------------------------------------------------------------------


def check_generation(model: Any, ids: torch.Tensor, cached: torch.Tensor, options: dict[str, Any], fixed: bool) -> None:
    """Without a cache, padded on the left, with beams, and with a cache of a fixed size."""
    mask, padded = torch.ones_like(ids), torch.nn.functional.pad(ids, (3, 0))
    assert torch.equal(cached, model.generate(ids, attention_mask=mask, use_cache=False, **options))
    left = model.generate(padded, attention_mask=torch.nn.functional.pad(mask, (3, 0)), **options)
    assert torch.equal(cached[:, 6:], left[:, 9:])
    beams = model.generate(ids, attention_mask=mask, num_beams=3, **options)
    assert torch.equal(beams, model.generate(ids, attention_mask=mask, num_beams=3, use_cache=False, **options))
    if fixed:
        assert torch.equal(cached, model.generate(ids, attention_mask=mask, cache_implementation="static", **options))


@families(CAUSAL)
@torch.no_grad()
def test_generation_is_the_same_however_it_is_computed(family: str) -> None:
    model = model_of(family)
    ids, hybrids = tokens(2, 6), mixed(shape_of(model))
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    alone = []
    for k, hybrid in enumerate(hybrids):
        with Attachment(model, hybrid, attention=attention_of(family)) as attached:
            perturb(attached.banks, k + 1)
            mask = torch.ones_like(ids)
            cached = model.generate(ids, attention_mask=mask, **options)
            if k == 1:
                check_generation(model, ids, cached, options, family in FREE)
            alone.append((cached, {name: w.clone() for name, w in attached.banks.weights().items()}))
    with Attachment(model, hybrids, attention=attention_of(family)) as attached:
        for k, (_, own) in enumerate(alone):
            attached.banks.load(own, k)
        many = ids.repeat(len(hybrids), 1)
        packed = model.generate(many, attention_mask=torch.ones_like(many), **options)
    assert torch.equal(packed, torch.cat([expected for expected, _ in alone]))


# --- costs -----------------------------------------------------------------------------------------------------------


@families([name for name in TEXT if not name.startswith("deberta-v2")])
def test_flops_are_those_that_torch_counts(family: str) -> None:
    model = model_of(family)
    base, shape, ids = model.base_model, shape_of(model), tokens(2, 5)
    if family not in FREE:
        # Fused attention is not counted on all devices.
        model = randomise(AutoModelForCausalLM.from_config(MORE[family](), attn_implementation="eager"), 0)
        base = model.base_model
    # What is counted here is the base model's.
    shape = replace(shape, words=0)
    low, middle, _ = mixed(shape)
    own = [Hybrid.from_layers(LAYERS, {1: [LoRA(2, sites=(site,))]}) for site in ("k", "up")]
    apart = Hybrid.from_layers(LAYERS, {1: [Parallel(2), Sequential(2)]})
    for hybrid, modes in [(low, (True,)), (middle, (True,)), *((one, (True,)) for one in own), (apart, (True, False))]:
        for train in modes:
            with Attachment(model, hybrid, attention=attention_of(family)), FlopCounterMode(display=False) as counter:
                with torch.set_grad_enabled(train):
                    loss = base(input_ids=ids).last_hidden_state.sum()
                if loss.requires_grad:
                    loss.backward()
            counts = counter.get_flop_counts()
            outside = sum(sum(c.values()) for name, c in counts.items() if name.endswith(("rotary_emb", "pooler")))
            counted = (counter.get_total_flops() - outside) // 2
            if train:
                assert counted == COSTS.get("training_flops")().of(hybrid, shape, 5), hybrid.describe()
            elif not any(m.mergeable for m in hybrid.methods()):
                assert counted == COSTS.get("inference_flops")().of(hybrid, shape, 5)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in LISTED if name not in (*IMAGES, "granite")])
def test_every_family_classifies(family: str) -> None:
    model = randomise(AutoModelForSequenceClassification.from_config(MORE[family](num_labels=3)), 0)
    assert len(family_of(model.config).heads) >= 1
    trained = {name.split(".")[0] for name, _ in model.named_parameters()} - {model.base_model_prefix}
    assert trained == {name for name in family_of(model.config).heads if hasattr(model, name)}
    assert model(**inputs_of(family)).logits.shape == (3, 3)
