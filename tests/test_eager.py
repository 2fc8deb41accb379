"""Prefixes on a model whose own attention is the eager one: what eager attention promises still holds."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CAUSAL, FAMILIES, LAYERS, base_model, classifier, perturb, right_padded, tokens
from torch import nn
from transformers import PreTrainedModel

from autopeft.anatomy import shape_of
from autopeft.attaching import Attachment
from autopeft.attention import FUSED, MATMUL, matmul_attention
from autopeft.hybrid import Hybrid
from autopeft.methods._bank import Bank
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix

PREFIXED = Hybrid.uniform(LAYERS, Prefix(2))
each_family = pytest.mark.parametrize("family", FAMILIES)


def eager(family: str) -> PreTrainedModel:
    model = base_model(family)
    model.set_attn_implementation("eager")
    return model


@each_family
def test_attention_weights_are_given(family: str) -> None:
    model = eager(family)
    inputs = right_padded(model, (7, 4, 1))
    with torch.no_grad(), Attachment(model, PREFIXED):
        weights = model(**inputs, output_attentions=True).attentions
    assert [tuple(w.shape) for w in weights] == [(3, 4, 7, 2 + 7)] * LAYERS
    for w in weights:
        torch.testing.assert_close(w.sum(-1), torch.ones(3, 4, 7))
        assert w[1, :, :4, 2 + 4 :].max() == 0
    assert min(w[:, :, :, :2].min() for w in weights) > 0


def test_attention_dropout_is_kept() -> None:
    module, weights = nn.Module(), torch.zeros(1, 1, 2000, 8)
    module.is_causal = False
    torch.manual_seed(0)
    for training, kept in ((True, 0.6), (False, 1.0)):
        module.training = training
        seen = matmul_attention(module, weights, weights, weights, None, dropout=0.4)[1]
        assert (seen != 0).float().mean() == pytest.approx(kept, abs=0.01)
        assert seen.sum(-1).mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("attention", [FUSED, MATMUL])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("family", ["bert", *CAUSAL])
def test_float_masks_are_added(family: str, heads: int, attention: str) -> None:
    """A 4-D mask of the user's own: boolean, and the same as what is added to the scores."""
    model, ids = base_model(family), tokens(4)
    seen = torch.ones(4, heads, 7, 7, dtype=torch.bool).tril()
    seen[:, :, :, 2] = False
    seen[:, :, 2, 2] = True
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    both = [Hybrid.uniform(LAYERS, Prefix(2)), Hybrid.uniform(LAYERS, Prefix(1))]
    with torch.no_grad(), Attachment(model, both, attention=attention) as attached:
        perturb(attached.banks)
        # The padded column of the second stays what it is: nothing may depend on it.
        one, other = (model(input_ids=ids, attention_mask=m).last_hidden_state for m in (seen, added))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@each_family
def test_each_layers_banks_are_on_its_device(family: str) -> None:
    model = classifier(family)
    for module in (m for m in model.base_model.modules() if isinstance(m, nn.Embedding)):
        module.to("meta")
    attached = Attachment(model, Hybrid.uniform(LAYERS, LoRA(2), Prefix(1)))
    assert {p.device.type for p in attached.banks.parameters()} == {"cpu"}


def test_masks_are_kept_and_scales_of_one_cost_nothing() -> None:
    shape = shape_of(classifier("bert"))
    seeds = [0, 0]
    differ = Bank([Prefix(2), Prefix(1)], shape, "attention", seeds, 0)
    assert differ.own_columns.tolist() == [[True, True], [True, False]]
    assert "own_columns" not in differ.state_dict()
    assert Bank([Prefix(2), Prefix(2)], shape, "attention", seeds, 0).own_columns is None
    x = torch.ones(2, 1, 1)
    for scales, expected in (((1.0, 1.0), [2, 2]), ((1.0, None), [2, 1]), ((2.0, 0.5), [3, 1.5])):
        members = [LoRA(2, sites=("q",), scale=s) if s else None for s in scales]
        bank = Bank(members, shape, "q", seeds, 0)
        with torch.no_grad():
            bank.B.copy_(torch.ones(bank.B.shape))
        assert bank.add_expanded(x.expand(2, 1, 32), x.expand(2, 1, 2) / 2, "B")[:, 0, 0].tolist() == expected


def test_maps_with_packed_weights_have_their_shape() -> None:
    """4-bit weights are [n, 1] bytes; the map still knows how wide it is."""
    for family in ("bert", "gpt2"):
        model = classifier(family)
        expected = shape_of(model).sites
        for module in (m for m in model.modules() if isinstance(m, nn.Linear)):
            module.weight = nn.Parameter(torch.zeros(module.weight.numel() // 2, 1, dtype=torch.uint8), False)
        assert shape_of(model).sites == expected
