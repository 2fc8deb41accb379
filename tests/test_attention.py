"""Prefixes through the attention interface: nothing is dropped, masked or leaked that should not be.

Shapes: N sequences, L tokens, H heads, G key/value heads, l prefix columns, h head width, d hidden width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import (
    CAUSAL,
    CONFIGS,
    FAMILIES,
    LAYERS,
    base_model,
    classifier,
    perturb,
    randomise,
    right_padded,
    tokens,
)
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from autopeft.anatomy import ModelShape, shape_from_config
from autopeft.attaching import Attachment
from autopeft.attention import FUSED, MATMUL, fused_attention, matmul_attention, set_prefixes
from autopeft.hybrid import Hybrid
from autopeft.methods._bank import Bank
from autopeft.methods.prefix import Prefix

each_family = pytest.mark.parametrize("family", FAMILIES)
each_causal = pytest.mark.parametrize("family", CAUSAL)
each_attention = pytest.mark.parametrize("attention", [FUSED, MATMUL])

#: In two layers of three, of two lengths.
PREFIXED = Hybrid.from_layers(LAYERS, {0: [Prefix(3)], 2: [Prefix(2)]})


def attach(model: PreTrainedModel, attention: str) -> Attachment:
    attached = Attachment(model, PREFIXED, attention=attention)
    perturb(attached.banks, scale=0.5)
    return attached


def hidden(model: PreTrainedModel, attention: str, *inputs: dict[str, Any]) -> list[torch.Tensor]:
    """Last hidden states [N, L, d] of a base model with prefixes, one an input."""
    with attach(model, attention), torch.no_grad():
        return [model(**i).last_hidden_state for i in inputs]


# --- what a token may see --------------------------------------------------------------------------------------------


@each_attention
@each_family
def test_the_last_token_still_matters(family: str, attention: str) -> None:
    model, ids = classifier(family), tokens()
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] - 4) % 90 + 5
    with attach(model, attention), torch.no_grad():
        for masked in ({}, {"attention_mask": torch.ones_like(ids)}):
            one, other = model(input_ids=ids, **masked).logits, model(input_ids=changed, **masked).logits
            assert (one - other).abs().amin(1).min() > 1e-4
    before, after = hidden(base_model(family), attention, {"input_ids": ids}, {"input_ids": changed})
    assert (before - after)[:, -1].abs().amax(-1).min() > 1e-3


@each_attention
@each_causal
def test_a_later_token_does_not_change_earlier_ones(family: str, attention: str) -> None:
    model, ids = base_model(family), tokens()
    for place in (3, ids.shape[1] - 1):
        changed = ids.clone()
        changed[:, place] = (ids[:, place] - 4) % 90 + 5
        inputs = [{"input_ids": x} | m for m in ({}, {"attention_mask": torch.ones_like(ids)}) for x in (ids, changed)]
        for before, after in zip(*[iter(hidden(model, attention, *inputs))] * 2, strict=True):
            assert torch.equal(before[:, :place], after[:, :place])
            assert (before - after)[:, place:].abs().amax(-1).min() > 1e-4


@each_attention
@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in CAUSAL])
def test_in_an_encoder_every_token_sees_every_other(family: str, attention: str) -> None:
    model, ids = base_model(family), tokens()
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] - 4) % 90 + 5
    before, after = hidden(model, attention, {"input_ids": ids}, {"input_ids": changed})
    assert (before - after).abs().amax(-1).min() > 1e-5


@each_attention
@each_family
def test_every_prefix_column_matters_to_every_token(family: str, attention: str) -> None:
    model, ids = base_model(family), tokens()
    with attach(model, attention) as attached, torch.no_grad():
        before = model(input_ids=ids).last_hidden_state
        for weight in attached.banks.weights().values():
            for column in weight:
                kept = column.clone()
                column.add_(1.0)
                assert (model(input_ids=ids).last_hidden_state - before).abs().amax(-1).min() > 0
                column.copy_(kept)
        assert torch.equal(model(input_ids=ids).last_hidden_state, before)


# --- masks -----------------------------------------------------------------------------------------------------------


@each_attention
@each_family
def test_a_full_mask_is_no_mask(family: str, attention: str) -> None:
    ids = tokens()
    bare, full = hidden(
        base_model(family), attention, {"input_ids": ids}, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    )
    torch.testing.assert_close(bare, full, rtol=1e-5, atol=1e-6)


@each_attention
@each_family
def test_what_stands_in_the_padding_does_not_matter(family: str, attention: str) -> None:
    model = base_model(family)
    one = right_padded(model, (7, 4, 1))
    mask = one["attention_mask"].bool()
    other = one | {"input_ids": torch.where(mask, one["input_ids"], 77)}
    before, after = hidden(model, attention, one, other)
    torch.testing.assert_close(before[mask], after[mask], rtol=1e-6, atol=1e-6)
    assert not torch.equal(before[~mask], after[~mask])


@each_attention
@each_family
def test_more_padding_does_not_change_logits(family: str, attention: str) -> None:
    model, lengths = classifier(family), (7, 4, 1)
    short = right_padded(model, lengths)
    long = {
        "input_ids": nn.functional.pad(short["input_ids"], (0, 5), value=model.config.pad_token_id),
        "attention_mask": nn.functional.pad(short["attention_mask"], (0, 5)),
    }
    with attach(model, attention), torch.no_grad():
        together, padded = model(**short).logits, model(**long).logits
        alone = [model(input_ids=short["input_ids"][i : i + 1, :n]).logits for i, n in enumerate(lengths)]
    torch.testing.assert_close(together, padded, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


@each_causal
def test_padding_on_the_left_is_inert_too(family: str) -> None:
    model, ids = base_model(family), tokens(2, 5)
    left = {
        "input_ids": nn.functional.pad(ids, (3, 0), value=model.config.pad_token_id),
        "attention_mask": nn.functional.pad(torch.ones_like(ids), (3, 0)),
        "position_ids": (torch.arange(8) - 3).clamp(min=0)[None].expand(2, -1),
    }
    for attention in (FUSED, MATMUL):
        bare, padded = hidden(model, attention, {"input_ids": ids}, left)
        torch.testing.assert_close(padded[:, 3:], bare, rtol=1e-5, atol=1e-5)
        assert padded.isfinite().all()


@each_family
def test_fused_and_matmul_agree(family: str) -> None:
    model = base_model(family)
    inputs = [{"input_ids": tokens()}, right_padded(model, (7, 4, 1))]
    for fused, matmul in zip(hidden(model, FUSED, *inputs), hidden(model, MATMUL, *inputs), strict=True):
        torch.testing.assert_close(fused, matmul, rtol=1e-5, atol=1e-5)


@each_family
def test_without_prefix_both_agree_with_the_models_own_attention(family: str) -> None:
    model = base_model(family)
    for inputs in ({"input_ids": tokens()}, right_padded(model, (7, 4, 1))):
        with torch.no_grad():
            own = model(**inputs).last_hidden_state
            for attention in (FUSED, MATMUL):
                with Attachment(model, Hybrid.uniform(LAYERS), attention=attention):
                    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
                    ours = model(**inputs).last_hidden_state
                torch.testing.assert_close(ours[real], own[real], rtol=1e-5, atol=1e-5)


# --- against the definition ------------------------------------------------------------------------------------------


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, prefix: Bank, allowed: torch.Tensor) -> torch.Tensor:
    """K <- [P_k; K], V <- [P_v; V], softmax(Q K^T / sqrt(h)) V, token by token, in fp64: [N, L, H, h]."""
    groups = q.shape[1] // k.shape[1]
    output = torch.zeros(q.shape[0], q.shape[2], q.shape[1], q.shape[3], dtype=torch.float64)
    for n in range(q.shape[0]):
        candidate = n // (q.shape[0] // len(prefix.columns))
        columns = prefix.columns[candidate]
        for head in range(q.shape[1]):
            keys = torch.cat([prefix.key[candidate, :columns, head // groups], k[n, head // groups]]).double()
            values = torch.cat([prefix.value[candidate, :columns, head // groups], v[n, head // groups]]).double()
            scores = torch.einsum("qh,kh->qk", q[n, head].double(), keys) / q.shape[3] ** 0.5
            seen = torch.cat([torch.ones(q.shape[2], columns, dtype=torch.bool), allowed[n]], dim=1)
            output[n, :, head] = torch.einsum("qk,kh->qh", scores.masked_fill(~seen, -torch.inf).softmax(-1), values)
    return output


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("function", [fused_attention, matmul_attention])
@torch.no_grad()
def test_attention_is_its_definition(function: Any, masked: bool, causal: bool) -> None:
    shape, generator = small_shape(), torch.Generator().manual_seed(0)
    members = [Prefix(2), None, Prefix(3)]
    bank = Bank(members, shape, "attention", [0] * 3, 0)
    for k, size in enumerate((2, 0, 3)):
        for name in ("key", "value"):
            getattr(bank, name)[k, :size].normal_(generator=generator)
    module = nn.Module()
    module.is_causal, module.num_key_value_groups, module.training = causal, 2, False
    set_prefixes(module, [bank])
    q, k, v = (torch.randn(6, heads, 5, 8, generator=generator) for heads in (4, 2, 2))
    allowed = torch.ones(6, 5, 5, dtype=torch.bool)
    if masked:
        allowed[::2, :, 3:] = False
    if causal:
        allowed = allowed.tril()
    expected = reference(q, k, v, bank, allowed)
    # Of all tokens, and of the last ones as with a cache.
    for first in (0, 2, 4):
        mask = allowed[:, None, first:] if masked else None
        output, _ = function(module, q[:, :, first:], k, v, mask, scaling=8**-0.5, dropout=0.0)
        torch.testing.assert_close(output.double(), expected[:, first:], rtol=1e-5, atol=1e-6)


def small_shape() -> ModelShape:
    shape = shape_from_config(CONFIGS["llama"]())
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (4, 2, 8)
    return shape


@each_attention
def test_a_prefix_of_another_candidate_is_not_seen(attention: str) -> None:
    model, ids = classifier("bert"), tokens(2).repeat(3, 1)
    with torch.no_grad():
        bare = model(input_ids=ids[:2]).logits
        members = [PREFIXED, Hybrid.uniform(LAYERS), Hybrid.from_layers(LAYERS, {0: [Prefix(1)]})]
        with Attachment(model, members, attention=attention):
            packed = model(input_ids=ids).logits.unflatten(0, (3, 2))
    torch.testing.assert_close(packed[1], bare, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(packed[0], packed[2], atol=1e-5)


# --- generation ------------------------------------------------------------------------------------------------------


@each_attention
@pytest.mark.parametrize("padded", [False, True])
def test_generation_with_and_without_a_cache_agree(attention: str, padded: bool) -> None:
    model, ids = randomise(LlamaForCausalLM(CONFIGS["llama"]()), 0), tokens(3, 6)
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :3] = 0
        ids = ids * mask
    options: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "attention_mask": mask}
    with attach(model, attention), torch.no_grad():
        cached = model.generate(ids, use_cache=True, **options)
        assert torch.equal(cached, model.generate(ids, use_cache=False, **options))
    assert cached.shape == (3, 18)
    assert not torch.equal(cached, model.generate(ids, use_cache=True, **options))
