"""A choice of attention made after hybrids were put on: prefixes stay, and what the user chose comes back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny_models import (
    FAMILIES,
    LAYERS,
    TOGETHER,
    base_model,
    classifier,
    everywhere,
    make,
    perturb,
    right_padded,
    tokens,
)
from torch import nn
from transformers import AutoModel, PreTrainedModel

from autopeft.attaching import Attachment
from autopeft.attention import FUSED, MATMUL
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.peft_tuner import HybridConfig

each_family = pytest.mark.parametrize("family", FAMILIES)
ALL = everywhere(*(make(name) for name in TOGETHER))


@torch.no_grad()
def logits(model: Any, plain: PreTrainedModel) -> torch.Tensor:
    return model(**right_padded(plain, (7, 4, 1))).logits


def choose(model: Any, attention: str, how: str) -> None:
    if how == "method":
        model.set_attn_implementation(attention)
    elif how == "base":
        model.base_model.set_attn_implementation(attention)
    else:
        model.config._attn_implementation = attention


@each_family
@pytest.mark.parametrize("how", ["method", "base", "configuration"])
def test_prefixes_stay_whatever_is_chosen_after_attaching(family: str, how: str) -> None:
    model = classifier(family)
    bare = logits(model, model)
    with Attachment(model, ALL) as attached:
        perturb(attached.banks)
        expected = logits(model, model)
        for chosen in ("eager", "sdpa", "eager"):
            choose(model, chosen, how)
            torch.testing.assert_close(logits(model, model), expected, rtol=1e-5, atol=1e-5)
            assert model.config._attn_implementation == {"eager": MATMUL, "sdpa": FUSED}[chosen]
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(logits(model, model), bare, rtol=1e-5, atol=1e-5)


@each_family
def test_chosen_before_and_after_it_is_the_same_to_the_bit(family: str) -> None:
    found = []
    for early in (True, False):
        model = classifier(family)
        if early:
            model.set_attn_implementation("eager")
        with Attachment(model, ALL) as attached:
            perturb(attached.banks)
            if not early:
                model.set_attn_implementation("eager")
            found.append(logits(model, model))
    assert torch.equal(*found)


@pytest.mark.parametrize("chosen", ["eager", "sdpa"])
@pytest.mark.parametrize("hybrid", [ALL, everywhere(LoRA(2))])
@pytest.mark.parametrize("passes", [0, 1])
def test_detaching_leaves_what_was_chosen_last(chosen: str, hybrid: Hybrid, passes: int) -> None:
    for before in ("eager", "sdpa"):
        model = classifier("bert")
        model.set_attn_implementation(before)
        config = copy.deepcopy(model.config.__dict__)
        with Attachment(model, hybrid):
            logits(model, model)
        assert model.config.__dict__ == config
        with Attachment(model, hybrid):
            model.set_attn_implementation(chosen)
            for _ in range(passes):
                logits(model, model)
        assert model.config.__dict__ == config | {"_attn_implementation_internal": chosen}


@each_family
def test_a_wrapped_model_keeps_its_prefixes_and_gives_the_choice_back(family: str) -> None:
    base = classifier(family)
    model = get_peft_model(base, HybridConfig(hybrid=ALL, task_type="SEQ_CLS")).eval()
    perturb(nn.ParameterList(p for p in model.parameters() if p.requires_grad))
    expected = logits(model, base)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits(model, base), expected, rtol=1e-5, atol=1e-5)
    with model.disable_adapter():
        assert base.config._attn_implementation == "eager"
        off = logits(model, base)
    torch.testing.assert_close(logits(model, base), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(off, expected, atol=1e-3)
    other = copy.deepcopy(model)
    other.set_attn_implementation("sdpa")
    assert torch.equal(logits(other, base), expected)
    assert base.config._attn_implementation == MATMUL
    plain = model.unload()
    assert plain.config._attn_implementation == "eager"
    assert plain.config.to_dict() == classifier(family).config.to_dict()


def test_what_knows_no_prefixes_is_replaced_and_said() -> None:
    model = classifier("bert")
    with Attachment(model, ALL) as attached:
        perturb(attached.banks)
        expected = logits(model, model)
        model.set_attn_implementation("flex_attention")
        with pytest.warns(UserWarning, match="'flex_attention' knows no prefixes; 'sdpa' is used while they are there"):
            assert torch.equal(logits(model, model), expected)
        with pytest.raises(ImportError, match=r"FlashAttention2|flash_attn"):
            model.set_attn_implementation("flash_attention_2")
        assert torch.equal(logits(model, model), expected)
    assert model.config._attn_implementation == "flex_attention"


@torch.no_grad()
def test_layers_that_are_called_on_their_own_have_their_prefixes() -> None:
    model, hidden = base_model("bert"), torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    with Attachment(model, Hybrid.uniform(LAYERS, Prefix(2))) as attached:
        perturb(attached.banks)
        expected = model.encoder(hidden).last_hidden_state
        model.config._attn_implementation = "sdpa"
        assert torch.equal(model.encoder(hidden).last_hidden_state, expected)
        model.config._attn_implementation = "flex_attention"
        with pytest.raises(AutopeftError, match=r"^attention 'flex_attention' knows no prefixes.*set_attn_impl[^\n]*$"):
            model.encoder(hidden)
        # A configuration of the layers' own.
        model.config._attn_implementation = "sdpa"
        for layer in model.encoder.layer:
            layer.attention.self.config = copy.deepcopy(model.config)
        assert torch.equal(model.encoder(hidden).last_hidden_state, expected)


@torch.no_grad()
def test_models_that_share_a_configuration_do_not_take_each_others_prefixes() -> None:
    config, ids = base_model("bert").config, tokens()
    models = [AutoModel.from_config(config).eval() for _ in range(2)]
    assert models[0].config is models[1].config
    bare = [m(input_ids=ids).last_hidden_state for m in models]
    attached = [Attachment(m, Hybrid.uniform(LAYERS, Prefix(2))) for m in models]
    expected = [m(input_ids=ids).last_hidden_state for m in models]
    attached[0].detach()
    assert torch.equal(models[1](input_ids=ids).last_hidden_state, expected[1])
    attached[1].detach()
    assert config._attn_implementation == "sdpa"
    for model, wanted, other in zip(models, bare, expected, strict=True):
        found = model(input_ids=ids).last_hidden_state
        assert torch.equal(found, wanted)
        assert not torch.equal(found, other)
