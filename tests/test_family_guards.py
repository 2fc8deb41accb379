"""What a model does otherwise than autopeft knows is refused, and what it knows only by names is tried."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_attention import small_shape
from tiny_families import APART, MORE
from tiny_models import CONFIGS, base_model, randomise
from tiny_packs import SETTINGS, bench
from torch import nn
from transformers import AutoModel, HeliumConfig, OlmoeConfig

from autopeft.anatomy import FAMILIES, family_of, is_recognised, remarks_of, shape_from_config, shape_of
from autopeft.attaching import Attachment, try_hybrids
from autopeft.attention import FUSED, MATMUL, fused_attention, matmul_attention, set_prefixes
from autopeft.candidate import Candidate
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods._bank import Bank
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential
from autopeft.space import SearchSpace

each_function = pytest.mark.parametrize("function", [fused_attention, matmul_attention])


def attention(function: Any, prefix: int = 0, heads: int = 4, causal: bool = False, **told: Any) -> torch.Tensor:
    """Of two sequences of five tokens: [2, 5, H, 8]."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Module()
    module.is_causal, module.num_key_value_groups, module.training = causal, heads // 2, False
    bank = Bank([Prefix(3)], small_shape(), "attention", [0], 0)
    with torch.no_grad():
        for weight in bank.parameters():
            weight.normal_(generator=generator)
    set_prefixes(module, [bank] * (prefix > 0))
    q, k, v = (torch.randn(2, n, 5, 8, generator=generator) for n in (heads, 2, 2))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[0, ..., 3:] = False
    found: torch.Tensor = function(module, q, k, v, None if causal else mask, scaling=0.5, dropout=0.0, **told)[0]
    return found.detach()


@each_function
def test_what_attention_does_not_know_is_an_error(function: Any) -> None:
    expected = attention(function)
    assert torch.equal(attention(function, s_aux=None, sliding_window=4, position_ids=torch.arange(5)), expected)
    for name in ("s_aux", "cu_seq_lens_q", "tomorrow"):
        with pytest.raises(AutopeftError, match=f"Module gives its attention '{name}', which autopeft's"):
            attention(function, **{name: torch.zeros(4)})


@each_function
@pytest.mark.parametrize("causal", [False, True])
def test_a_bias_of_positions_has_no_columns_for_prefixes(function: Any, causal: bool) -> None:
    bias = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    plain = attention(function, 3, causal=causal)
    none = attention(function, 3, causal=causal, position_bias=torch.zeros_like(bias))
    torch.testing.assert_close(none, plain, rtol=1e-5, atol=1e-6)
    biased = attention(function, 3, causal=causal, position_bias=bias)
    torch.testing.assert_close(biased, attention(matmul_attention, 3, causal=causal, position_bias=bias))
    assert (biased - plain).abs().max() > 0.1
    # The same for all columns is nothing, but that the prefix has none.
    raised = attention(function, 0, causal=causal, position_bias=torch.full_like(bias, 3.0))
    torch.testing.assert_close(raised, attention(function, 0, causal=causal), rtol=1e-5, atol=1e-6)
    raised = attention(function, 3, causal=causal, position_bias=torch.full_like(bias, 30.0))
    torch.testing.assert_close(raised, attention(function, 0, causal=causal), rtol=1e-5, atol=1e-5)


def test_capped_scores_are_those_of_gemma_2() -> None:
    model = randomise(AutoModel.from_config(MORE["gemma2"](), attn_implementation="eager"), 0)
    ids = torch.arange(5, 23).view(2, 9)
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        for ours in (FUSED, MATMUL):
            with Attachment(model, Hybrid.uniform(3), attention=ours):
                assert model.config._attn_implementation.startswith("autopeft")
                torch.testing.assert_close(model(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    assert model.config._attn_implementation == "eager"


# --- a trial of each model -------------------------------------------------------------------------------------------


def test_a_model_that_goes_around_its_modules_is_refused() -> None:
    model = base_model("llama")
    try_hybrids(model, "right")
    around = copy.deepcopy(model)
    mlp: Any = around.layers[1].mlp
    mlp.forward = lambda x: mlp.down_proj(mlp.act_fn(x @ mlp.gate_proj.weight.T) * mlp.up_proj(x))
    with pytest.raises(AutopeftError, match=r"model 'around': .*its code does not call each layer once, and each map"):
        try_hybrids(around, "around")


def test_a_model_that_attends_otherwise_than_by_the_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = base_model("llama", attn_implementation="eager")
    own: Any = model.layers[0].self_attn
    forward = own.forward

    def louder(*args: Any, **kwargs: Any) -> Any:
        output, weights = forward(*args, **kwargs)
        return (output * 1.1 if model.config._attn_implementation == "eager" else output), weights

    monkeypatch.setattr(own, "forward", louder)
    with pytest.raises(AutopeftError, match="model 'loud': with hybrids that add nothing it computes something else"):
        try_hybrids(model, "loud")


def test_an_unknown_family_with_known_names_is_taken_and_said() -> None:
    config = HeliumConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    assert config.model_type not in FAMILIES
    model = randomise(AutoModel.from_config(config), 0)
    shape = shape_of(model)
    assert (shape.layers, shape.gated, shape.causal, shape.has("attention")) == (3, True, True, True)
    assert is_recognised(config.model_type)
    assert remarks_of(shape)[0].startswith("model family 'helium' is not one that autopeft was tested with")
    assert remarks_of(shape_from_config(CONFIGS["llama"]())) == []
    try_hybrids(model, "helium")
    own: Any = model.layers[1].self_attn
    forward, eager = own.forward, copy.deepcopy(model.config)
    eager._attn_implementation = "eager"

    def deaf(*args: Any, **kwargs: Any) -> Any:
        given, own.config = own.config, eager
        try:
            return forward(*args, **kwargs)
        finally:
            own.config = given

    own.forward = deaf
    with pytest.raises(AutopeftError, match="its attention does not see prefixes"):
        try_hybrids(model, "deaf")


def test_what_only_resembles_a_known_family_is_not_taken() -> None:
    with pytest.raises(AutopeftError, match="model family 'olmoe' is not supported"):
        family_of(OlmoeConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_experts=4))
    with pytest.raises(AutopeftError, match="models with 'conv_kernel_size' are not supported"):
        family_of(MORE["deberta-v2"](conv_kernel_size=3))


@pytest.mark.parametrize("family", APART)
def test_prefixes_are_refused_where_they_do_not_reach_attention(family: str) -> None:
    shape = shape_from_config(MORE[family]())
    blocks = {"lora": {"rank": [0, 2]}, "prefix": {"length": [0, 2]}}
    with pytest.raises(
        AutopeftError, match=f"block 'prefix' at attention: models of family '{family}' compute attention by code of"
    ):
        SearchSpace.load({"blocks": blocks}, shape)
    with pytest.raises(AutopeftError, match="hybrid: 'prefix' at attention: models of family"):
        Hybrid.uniform(3, Prefix(2)).check(shape)
    del blocks["prefix"]
    assert SearchSpace.load({"blocks": blocks}, shape).size > 1


def test_what_depends_on_texts_is_refused_where_tokens_lie_side_by_side() -> None:
    model = randomise(AutoModel.from_config(MORE["opt"]()), 0)
    ids = torch.arange(5, 15).view(2, 5)
    with Attachment(model, Hybrid.uniform(3, LoRA(2, sites=("q",), gated=True))):
        model(ids)
    gated = Hybrid.uniform(3, LoRA(2, sites=("up",), gated=True))
    with Attachment(model, gated), pytest.raises(AutopeftError, match="'lora' at up depends on whole texts"):
        model(ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["falcon", "bloom", "deberta-v2", "modernbert", "gemma2", "gpt_neox", "opt", "camembert"]
)
def test_trained_in_a_pack_is_trained_alone(family: str, tmp_path: Path) -> None:
    made = bench(tmp_path, family, FUSED, settings=SETTINGS.model_copy(update={"epochs": 1}))
    members = [
        Candidate(Hybrid.from_layers(3, {0: [LoRA(2, sites=("q", "v"))], 2: [Sequential(3)]})),
        Candidate(Hybrid.from_layers(3, {1: [LoRA(3)], 2: [LoRA(4, sites=("k", "o", "up", "down"))]})),
        Candidate(Hybrid.uniform(3)),
    ]
    packed = made.train(members, made.frozen())
    for one, member in zip(packed, members, strict=True):
        alone = made.train([member])[0]
        assert one.losses == pytest.approx(alone.losses, rel=1e-5)
        assert alone.losses[-1] != alone.losses[0]
