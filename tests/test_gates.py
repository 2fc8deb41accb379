"""Gates on LoRA, adapters and prefixes: what they scale, that they see whole texts, and what stays as it was.

Shapes: N sequences, L tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import conformance
import pytest
import torch
from conformance import Trial
from tiny_models import CONFIGS, FAMILIES, LAYERS, base_model, classifier, everywhere, perturb, right_padded, tokens
from tiny_packs import Bench

from autopeft.anatomy import shape_from_config, shape_of
from autopeft.attaching import Attachment
from autopeft.attention import FUSED, MATMUL
from autopeft.candidate import Candidate
from autopeft.engine.pack import Pack
from autopeft.engine.schedule import CostModel, Lengths, Workload
from autopeft.errors import AutopeftError
from autopeft.exporting._lora import is_lora_only
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, Method, method_from_json
from autopeft.methods.lora import LoRA
from autopeft.methods.parallel import Parallel
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential
from autopeft.methods.vera import VeRA

UNIPELT = (LoRA(3, ("q", "v", "down"), gated=True), Sequential(2, ("o", "down"), activation="gelu", gated=True),
           Parallel(2, activation="gelu", gated=True), Prefix(2, gated=True))  # fmt: skip
each_gated = pytest.mark.parametrize("method", UNIPELT, ids=lambda m: m.name)
TOP = LAYERS - 1


def plain(method: Method) -> Method:
    """The same without a gate."""
    return replace(method, gated=False)


def opened(model: Any, hybrid: Hybrid, **inputs: torch.Tensor) -> torch.Tensor:
    """Outputs with perturbed weights, where gates are wide open or (`bias` below 0) shut."""
    bias = float(inputs.pop("bias", torch.tensor(100.0)))
    with torch.no_grad(), Attachment(model, hybrid) as attached:
        perturb(attached.banks)
        named = {n: w for n, w in attached.banks.weights().items() if not n.rpartition(".")[2].startswith("gate")}
        for i, (_, weight) in enumerate(sorted(named.items())):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
        for name, weight in attached.banks.weights().items():
            if name.endswith(".gate_bias"):
                weight.fill_(bias)
        found: torch.Tensor = model(**inputs)[0]
        return found


# --- what it is ------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_method_and_its_gates() -> None:
    config = CONFIGS["bert"](hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=1)
    shape = shape_from_config(config)
    assert LoRA(8, gated=True).num_params(shape) == 24_576 + 2 * 769
    assert Sequential(48, gated=True).num_params(shape) == 74_544 + 769
    assert Parallel(48, gated=True).num_params(shape) == 74_544 + 769
    assert Prefix(10, gated=True).num_params(shape) == 15_360 + 769
    assert LoRA(8, ("down",), gated=True).num_params(shape) == 8 * (768 + 3072) + 3073


@each_gated
def test_json_of_ungated_methods_is_as_before(method: Method) -> None:
    assert method_from_json(method.to_json()) == method
    assert method.to_json()["gated"] is True
    without = plain(method)
    assert "gated" not in without.to_json()
    assert method_from_json(without.to_json() | {"gated": False}) == without
    assert Candidate(everywhere(LoRA(8))).key == "dbfe1a9789c2"


@each_gated
def test_a_gated_method_neither_merges_nor_goes_into_stock_peft(method: Method) -> None:
    assert not method.mergeable
    assert not method.tokenwise
    assert method.peft_type is None
    assert plain(method).mergeable == type(method).mergeable
    assert plain(method).tokenwise
    assert not is_lora_only(everywhere(LoRA(2, gated=True)))


def test_other_methods_have_no_gate() -> None:
    for name in set(METHODS.names()) - {m.name for m in UNIPELT}:
        assert "gated" not in METHODS.get(name).option_names(), name
    with pytest.raises(AutopeftError, match="method 'vera' has no gate"):
        VeRA(2, gated=True)
    with pytest.raises(AutopeftError, match="method 'lora': gated is true or false, not 1"):
        LoRA(2, gated=1)  # type: ignore[arg-type]


# --- what it does ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "llama"])
@each_gated
def test_an_open_gate_is_none_and_a_shut_one_adds_nothing(method: Method, family: str) -> None:
    model = base_model(family)
    inputs = right_padded(model, (7, 4, 6))
    bare = opened(model, everywhere(), **inputs)
    without = opened(model, everywhere(plain(method)), **inputs)
    torch.testing.assert_close(opened(model, everywhere(method), **inputs), without, rtol=1e-4, atol=1e-5)
    assert (without - bare).abs().max() > 1e-2
    if method.name != "prefix":
        shut = opened(model, everywhere(method), bias=torch.tensor(-100.0), **inputs)
        torch.testing.assert_close(shut, bare, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gate_is_of_the_text_and_not_of_its_padding(family: str) -> None:
    model = base_model(family)
    both = right_padded(model, (7, 4))
    alone = {name: x[1:, :4] for name, x in both.items()}
    with torch.no_grad(), Attachment(model, everywhere(*UNIPELT)) as attached:
        perturb(attached.banks)
        packed, single = model(**both)[0], model(**alone)[0]
        first = model(input_ids=both["input_ids"][:1])[0]
    torch.testing.assert_close(packed[1:, :4], single, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed[:1], first, rtol=1e-4, atol=1e-5)


def test_the_gate_is_the_sigmoid_of_the_mean_over_tokens() -> None:
    model, ids = base_model("bert", num_hidden_layers=1), tokens()
    place, seen = model.encoder.layer[0].attention.self.query, {}
    with Attachment(model, Hybrid.uniform(1, LoRA(2, ("q",), scale=3.0, gated=True))) as attached, torch.no_grad():
        perturb(attached.banks)
        place.register_forward_hook(lambda module, args, output: seen.update(x=args[0], y=output))
        model(input_ids=ids)
        a, b, w, bias = (attached.banks.weights()[f"layers.0.q.lora.{n}"] for n in ("A", "B", "gate", "gate_bias"))
    gate = (seen["x"] @ w + bias).mean(1).sigmoid()
    assert len(set(gate.tolist())) == 4
    expected = seen["x"] @ place.weight.T + place.bias + gate[:, None, None] * 3 * seen["x"] @ a.T @ b.T
    torch.testing.assert_close(seen["y"], expected)


# --- in training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_packed_is_alone(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gated and ungated of two sizes in one layer, absent ones, other first layers, one sliced out."""
    first = [*UNIPELT]
    second = [
        LoRA(5, ("q",), gated=True),
        Sequential(4, ("down",), activation="gelu", gated=True),
        Prefix(4, gated=True),
    ]
    layers: list[dict[int, Sequence[Method]]] = [
        {0: first, 1: first, 2: second},
        {0: second, 2: first},
        {1: second, 2: [plain(m) for m in first]},
        {0: [plain(m) for m in second]},
        {},
    ]
    rates = [{"learning_rate": rate} for rate in (1e-3, 3e-3, 2e-3, 1e-3, 3e-3)]
    chosen = [Candidate(Hybrid.from_layers(LAYERS, own), r) for own, r in zip(layers, rates, strict=True)]
    monkeypatch.setattr(conformance, "members_of", lambda kind: chosen)
    found: Trial = conformance.trial(LoRA, conformance.bench(tmp_path, family))
    conformance.check_the_trial_says_something(found)
    conformance.check_packed(found)
    conformance.check_trained(found)
    conformance.check_kept_apart(found)


@pytest.mark.parametrize("attention", [FUSED, MATMUL])
def test_the_last_layer_is_whole_for_those_that_mix_tokens(attention: str, tmp_path: Path) -> None:
    bench: Bench = conformance.bench(tmp_path, "bert")
    backbone = bench.backbone
    gate, below = LoRA(2, gated=True), Hybrid.from_layers(LAYERS, {0: [LoRA(2, gated=True)]})
    above = Hybrid.from_layers(LAYERS, {TOP: [gate]})
    cut = {}
    for name, hybrids in {"none": [everywhere()], "below": [below], "above": [above, below]}.items():
        with Pack(
            backbone, [Candidate(h) for h in sorted(hybrids, key=lambda h: h.first_adapted)], bench.settings
        ) as p:
            cut[name] = p._first_token is not None
    assert cut == {"none": True, "below": True, "above": False}
    one = Lengths(1, 8, 64)
    costs = CostModel(shape_of(backbone.model), Workload(one, one, one, one), 1)
    same = Hybrid.from_layers(LAYERS, {TOP: [LoRA(2)]})
    assert costs.candidate(above) > 1.5 * costs.candidate(same)
    assert costs.candidate(below) < costs.candidate(Hybrid.from_layers(LAYERS, {0: [LoRA(2)], TOP: [gate]}))


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_that_are_computed_again_see_the_same_texts(reentrant: bool) -> None:
    model = classifier("bert")
    inputs = right_padded(model, (7, 4, 1))
    with Attachment(model, everywhere(*UNIPELT)) as attached:
        perturb(attached.banks)

        def gradients() -> dict[str, torch.Tensor]:
            model.zero_grad()
            model(**inputs).logits.square().sum().backward()
            return {n: p.grad.clone() for n, p in attached.banks.named_parameters()}

        expected = gradients()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
        found = gradients()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_detaching_leaves_no_trace() -> None:
    model = classifier("bert")
    before = conformance.state(model)
    with Attachment(model, everywhere(*UNIPELT)):
        model(input_ids=tokens())
    conformance.assert_same_state(before, conformance.state(model))
