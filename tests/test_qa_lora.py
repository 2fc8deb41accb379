"""QA-LoRA: counted as the paper counts it, LoRA on repeated columns, and merged into an int4 backbone exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import LAYERS, base_model, perturb, tokens
from tiny_quantised import quantised, wide_bench
from tiny_task import classes

from autopeft.anatomy import family_of, layers_of, shape_of
from autopeft.attaching import Attachment
from autopeft.candidate import Candidate
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.qa_lora import QALoRA
from autopeft.quantising.weights import UniformLinear, changed, dequantised

SITES = ("q", "v", "up", "down")


def test_it_counts_r_times_groups_and_outputs() -> None:
    shape = shape_of(base_model("bert", hidden_size=768, num_attention_heads=12, intermediate_size=3072))
    assert QALoRA(8).num_params(shape) == 2 * 8 * (768 // 32 + 768)
    assert QALoRA(4, sites=("down",)).num_params(shape) == 4 * (3072 // 32 + 768)


def test_it_is_lora_with_each_column_repeated() -> None:
    model = base_model("bert", hidden_size=64, intermediate_size=128)
    other = Hybrid.uniform(LAYERS, LoRA(3, sites=SITES, scale=1.5))
    with Attachment(model, Hybrid.uniform(LAYERS, QALoRA(3, sites=SITES, scale=1.5))) as attached:
        perturb(attached.banks)
        weights = {n.replace("qa_lora", "lora"): w.detach() for n, w in attached.banks.weights().items()}
        found = model(tokens()).last_hidden_state
    for name in [n for n in weights if n.endswith("A")]:
        weights[name] = weights[name].repeat_interleave(32, dim=1)
    with Attachment(model, other) as attached:
        attached.banks.load(weights)
        torch.testing.assert_close(model(tokens()).last_hidden_state, found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_trained_on_int4_it_merges_into_zero_points_alone(family: str, tmp_path: Path) -> None:
    bench = wide_bench(tmp_path / "model", "int4", family)
    method = QALoRA(4, sites=SITES, scale=2.0)
    candidate = Candidate(Hybrid.uniform(LAYERS, method), {"learning_rate": 1e-2})
    trained = bench.train([candidate])[0]
    weights = {n.removeprefix("hybrid."): w for n, w in trained.weights.items() if n.startswith("hybrid.")}
    model, ids = quantised(tmp_path / "model", "int4", family).model(classes(3), torch.float32), tokens()
    before = model.base_model(ids).last_hidden_state
    with Attachment(model, candidate.hybrid) as attached:
        attached.banks.load(weights)
        expected = model.base_model(ids).last_hidden_state.detach()
    assert (expected - before).abs().max() > 1e-2
    for i, layer in enumerate(layers_of(model)):
        for site in SITES:
            name = family_of(model.config).site(site).module
            module = layer.get_submodule(name)
            own = {w: weights[f"layers.{i}.{site}.qa_lora.{w}"] for w in ("A", "B")}
            made = changed(module, *method.merge(site, own, dequantised(module), module.bias))
            assert isinstance(made, UniformLinear)
            assert torch.equal(made.weight, module.weight)
            assert torch.equal(made.scales, module.scales)
            assert not torch.equal(made.zeros, module.zeros)
            layer.set_submodule(name, made)
    torch.testing.assert_close(
        model.base_model(ids).last_hidden_state, expected, rtol=0, atol=3e-6 * float(expected.abs().max())
    )
