"""A merged hybrid is a plain model that gives the same outputs, and loads again."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny_folded import FAMILIES, INPUTS, MODELS, trained
from tiny_models import LAYERS, METHOD_NAMES, classifier, make, perturb, sized
from transformers import AutoModelForSequenceClassification

from autopeft.attaching import NAME, Attachment
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.merging import merge, unmerged
from autopeft.methods import METHODS
from autopeft.methods.bitfit import BitFit
from autopeft.methods.dora import DoRA
from autopeft.methods.ia3 import IA3
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential
from autopeft.peft_tuner import HybridConfig

MERGEABLE = [name for name in METHOD_NAMES if not unmerged(Hybrid.uniform(1, make(name)))]


def merged(family: str, hybrid: Hybrid) -> tuple[Any, float]:
    """The merged model, and the largest relative difference of its logits."""
    weights, expected = trained(family, hybrid)
    model = copy.deepcopy(MODELS[family])
    merge(model, hybrid, weights, safe=True)
    with torch.no_grad():
        return model, ((model(**INPUTS[family]).logits - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", MERGEABLE)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_merges_gives_the_same_logits(name: str, family: str) -> None:
    small, large = (make(name, size) for size in sized(METHODS.get(name)))
    _, difference = merged(family, Hybrid.from_layers(LAYERS, {0: [small], 2: [large]}))
    assert difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_any_two_methods_merge_at_one_place(family: str) -> None:
    pairs = list(itertools.combinations(MERGEABLE, 2))
    assert len(pairs) > 40
    for one, other in pairs:
        first, second = make(one), make(other)
        hybrid = Hybrid.uniform(LAYERS, first, second)
        assert hybrid == Hybrid.uniform(LAYERS, second, first)
        assert merged(family, hybrid)[1] < 1e-5, (one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_them_merge_together(family: str, tmp_path: Path) -> None:
    model, difference = merged(family, Hybrid.uniform(LAYERS, *(make(name) for name in MERGEABLE)))
    assert difference < 1e-5
    assert loaded(model, tmp_path / family) < 1e-6


def loaded(model: Any, folder: Path) -> float:
    """How far the logits of the saved model are from its own."""
    model.save_pretrained(folder)
    again, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys"))
    inputs = INPUTS[model.config.model_type]
    with torch.no_grad():
        return (again.eval()(**inputs).logits - model(**inputs).logits).abs().max().item()


def test_maps_get_biases_by_the_configuration_or_not_at_all(tmp_path: Path) -> None:
    model, _ = merged("llama", Hybrid.from_layers(LAYERS, {1: [BitFit(1, ("q",))]}))
    assert (model.config.attention_bias, model.config.mlp_bias) == (True, False)
    assert loaded(model, tmp_path) == 0
    assert MODELS["llama"].config.attention_bias is False
    # Those of this family have biases in q, k and v, and no word for others.
    model, hybrid = classifier("qwen2"), Hybrid.uniform(LAYERS, BitFit(1, ("q", "o")))
    with Attachment(model, hybrid) as attached:
        weights = attached.banks.weights()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(AutopeftError, match=r"^'bitfit' would give model.layers.0.self_attn.o_proj a bias, which a "):
        merge(model, hybrid, weights)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


# --- through PEFT ----------------------------------------------------------------------------------------------------


def wrapped(family: str, *methods: Any) -> tuple[Any, torch.Tensor]:
    config = HybridConfig(hybrid=Hybrid.uniform(LAYERS, *methods), task_type="SEQ_CLS")
    model = get_peft_model(copy.deepcopy(MODELS[family]), config).eval()
    with torch.no_grad():
        perturb(getattr(model.get_base_model(), NAME))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
        return model, model(**INPUTS[family]).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_merge_and_unload_gives_the_plain_model(family: str, tmp_path: Path) -> None:
    model, expected = wrapped(family, LoRA(2, ("q", "k", "o")), IA3(1), DoRA(3, ("v", "down"), 2.0))
    plain = model.merge_and_unload(safe_merge=True)
    assert type(plain) is type(MODELS[family])
    assert plain.state_dict().keys() == MODELS[family].state_dict().keys()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.modules())
    with torch.no_grad():
        difference = (plain(**INPUTS[family]).logits - expected).abs().max() / expected.abs().max()
    assert difference < 1e-5
    assert loaded(plain, tmp_path) < 1e-6


def test_what_does_not_merge_is_named_and_nothing_changes() -> None:
    model, before = wrapped("bert", LoRA(2), Prefix(2), Sequential(3))
    with pytest.raises(AutopeftError, match=r"^'prefix', 'sequential' do not merge into the backbone; [^\n]*$"):
        model.merge_and_unload()
    with torch.no_grad():
        assert torch.equal(model(**INPUTS["bert"]).logits, before)


def test_safe_merging_refuses_what_is_no_number() -> None:
    model, _ = wrapped("bert", LoRA(2))
    before = {n: t.clone() for n, t in model.get_base_model().bert.state_dict().items()}
    banks = getattr(model.get_base_model(), NAME)
    with torch.no_grad():
        next(p for n, p in banks.named_parameters() if n.endswith("2.v.lora.B"))[0, 0, 0] = float("nan")
    with pytest.raises(AutopeftError, match=r"^merging bert.encoder.layer.2.attention.self.value gives"):
        model.merge_and_unload(safe_merge=True)
    assert all(torch.equal(t, before[n]) for n, t in model.get_base_model().bert.state_dict().items())


def test_packed_weights_are_refused() -> None:
    model, hybrid = copy.deepcopy(MODELS["bert"]), Hybrid.uniform(LAYERS, LoRA(2))
    weights, _ = trained("bert", hybrid)
    query = model.bert.encoder.layer[1].attention.self.query
    query.weight = torch.nn.Parameter(query.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(AutopeftError, match=r"^bert.encoder.layer.1.attention.self.query: a quantised backbone"):
        merge(model, hybrid, weights)
