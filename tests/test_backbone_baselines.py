"""Baselines that change the backbone's own weights: sparse fine-tuning over all of them, and structured pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FFN, HEADS, HIDDEN, LAYERS, perturb
from tiny_packs import SETTINGS, Bench, bench

from autopeft.attention import FUSED
from autopeft.baselines._kept import RECORD, load_baseline, record_of, save_baseline
from autopeft.baselines._prunable import PrunableMap
from autopeft.baselines._training import own_backbone
from autopeft.baselines.diff_pruning import DiffPruning, Gated, gated, taken_off
from autopeft.baselines.lora_prune import LoRAPrune, Pruned, cubic
from autopeft.baselines.lt_sft_global import LTSFT
from autopeft.engine.data import collate
from autopeft.errors import AutopeftError

FAST = SETTINGS.model_copy(update={"epochs": 2, "batch_size": 26, "learning_rate": 5e-3})


@pytest.fixture(scope="module", params=["bert", "llama"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("model"), request.param, FUSED)


def logits(made: Bench, model: Any) -> torch.Tensor:
    batch = collate(made.data.validation, np.arange(6), made.data.pad_id)
    with torch.no_grad():
        found: torch.Tensor = model(**batch.inputs).logits
    return found


@pytest.mark.parametrize("kind", [LTSFT(share=0.02), DiffPruning(share=0.02)], ids=["lt_sft", "diff_pruning"])
def test_exactly_so_many_entries_are_changed(kind: LTSFT | DiffPruning, made: Bench, tmp_path: Path) -> None:
    fresh = own_backbone(made.source, made.data, FAST)
    before = dict(fresh.model.base_model.named_parameters())
    total = sum(p.numel() for p in before.values())
    fitted = kind.fit(made.source, made.data, FAST)
    model: Any = fitted.model
    after = dict(model.model.base_model.named_parameters())
    assert after.keys() == before.keys()
    changed = sum(int((after[name] != before[name]).sum()) for name in before)
    assert fitted.trainable_params == fitted.kept_params == round(0.02 * total)
    # A change that is trained may be zero in the end, where a weight's gradient always was.
    assert 0.95 * fitted.kept_params < changed <= fitted.kept_params
    assert fitted.stored_bytes == 8 * fitted.kept_params
    heads = sum(p.numel() for head in fresh.heads.values() for p in head.parameters())
    assert sum(p.numel() for p in model.trained()) - heads == fitted.kept_params
    assert [epoch["epoch"] for epoch in fitted.curve] == [1, 2]
    save_baseline(model, tmp_path)
    again = load_baseline(tmp_path)
    assert torch.equal(logits(made, again), logits(made, model))
    assert fitted.merged is model


def test_gates_are_hard_and_closed_ones_cost_nothing(made: Bench) -> None:
    gate = Gated(torch.zeros(1000), torch.Generator().manual_seed(0))
    with torch.no_grad():
        gate.w.fill_(1.0)
        gate.odds.copy_(torch.linspace(-4, 4, 1000))
        still = gate.change()
    noisy = gate.change().detach()
    assert torch.equal(still, (torch.sigmoid(gate.odds.detach()) * 3 - 1.5).clamp(0, 1))
    assert 0 <= float(noisy.min()) <= float(noisy.max()) == 1.0
    # About as many gates are open as the penalty expects.
    expected = gate.odds.sigmoid().sum()
    assert int((noisy > 0).sum()) == pytest.approx(float(expected.detach()), abs=60)
    (slope,) = torch.autograd.grad(expected, gate.odds)
    gate.odds.grad = torch.zeros(1000)
    gate.add_penalty(0.5)
    torch.testing.assert_close(gate.odds.grad, 0.5 * slope)


def test_a_gated_backbone_is_bare_again(made: Bench) -> None:
    backbone = own_backbone(made.source, made.data, FAST)
    before = {name: p.detach().clone() for name, p in backbone.model.base_model.named_parameters()}
    gates = gated(backbone, 0)
    with torch.no_grad():
        for gate in gates.values():
            gate.w.fill_(0.5)
    changes = taken_off(backbone, gates)
    after = dict(backbone.model.base_model.named_parameters())
    assert before.keys() == after.keys() == changes.keys()
    assert all(torch.equal(before[name], after[name]) and bool((changes[name] == 0.5).all()) for name in before)


def test_lt_sft_takes_the_largest_changes_and_goes_back(made: Bench) -> None:
    backbone = own_backbone(made.source, made.data, FAST)
    weights = dict(backbone.model.base_model.named_parameters())
    before = {name: p.detach().clone() for name, p in weights.items()}
    first, second = list(weights)[2], list(weights)[-2]
    with torch.no_grad():
        perturb(backbone.model.base_model, scale=1e-3)
        weights[first].view(-1)[[3, 5]] += 10.0
        weights[second].view(-1)[7] -= 10.0
    share = 3 / sum(p.numel() for p in weights.values())
    found = LTSFT(share)._largest(backbone, before)
    assert {name: numbers.tolist() for name, numbers in found.items()} == {first: [3, 5], second: [7]}
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_pruned_shapes_are_kept_and_compute_what_masks_do(made: Bench, tmp_path: Path) -> None:
    kind = LoRAPrune(rank=2, sparsity=0.4)
    fitted = kind.fit(made.source, made.data, FAST)
    model: Any = fitted.model
    groups = made.backbone.shape.kv_heads
    heads = [layer.kept["heads"] for layer in model._layers]
    channels = [layer.kept["channels"] for layer in model._layers]
    assert sum(map(len, heads)) == LAYERS * groups - round(0.4 * LAYERS * groups)
    assert sum(map(len, channels)) == LAYERS * FFN - round(0.4 * LAYERS * FFN)
    assert all(map(len, heads))
    assert all(map(len, channels))
    maps = [m for m in model.model.modules() if isinstance(m, PrunableMap)]
    for layer in model._layers:
        inside = len(layer.kept["heads"]) * HIDDEN // groups
        assert layer.maps["q"].linear.weight.shape == (inside, HIDDEN)
        assert layer.maps["k"].linear.weight.shape == (inside * groups // HEADS, HIDDEN)
        assert layer.maps["o"].linear.weight.shape == (HIDDEN, inside)
        assert layer.maps["down"].linear.weight.shape == (HIDDEN, len(layer.kept["channels"]))
    assert fitted.kept_params == sum(m.A.numel() + m.B.numel() for m in maps) < fitted.trainable_params
    indices = sum(map(len, heads)) + sum(map(len, channels))
    assert fitted.stored_bytes == 4 * (fitted.kept_params + indices)
    assert all(bool(m.B.any()) for m in maps)
    merged: Any = fitted.merged
    assert not any(isinstance(m, PrunableMap) for m in merged.modules())
    torch.testing.assert_close(logits(made, merged), logits(made, model), rtol=1e-5, atol=1e-5)
    save_baseline(model, tmp_path)
    assert torch.equal(logits(made, load_baseline(tmp_path)), logits(made, model))
    record = tmp_path / RECORD
    record.write_text(record.read_text().replace('"rank": 2', '"rank": 60000'))
    with pytest.raises(AutopeftError, match="not of rank 60000"):
        load_baseline(tmp_path)


def test_cutting_is_masking(made: Bench) -> None:
    backbone = own_backbone(made.source, made.data, FAST)
    model = Pruned(backbone, 2, 0, record_of(LoRAPrune(), made.source, made.data))
    bare = logits(made, own_backbone(made.source, made.data, FAST).model)
    torch.testing.assert_close(logits(made, model), bare, rtol=1e-6, atol=1e-6)
    for p in model.trained():
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(len(p)))
        p.requires_grad_(True)
    for share in (0.2, 0.5):
        batch = collate(made.data.train, np.arange(8), made.data.pad_id)
        torch.nn.functional.cross_entropy(model(**batch.inputs).logits, batch.labels).backward()
        before = [mask.clone() for layer in model._layers for mask in layer.masks.values()]
        model.prune(share)
        after = [mask for layer in model._layers for mask in layer.masks.values()]
        # What is gone stays so.
        assert all(bool((a <= b).all()) for a, b in zip(after, before, strict=True))
        assert sum(float(1 - a.mean()) for a in after) / len(after) == pytest.approx(share, abs=0.1)
    masked = logits(made, model)
    assert not torch.allclose(masked, bare, atol=1e-3)
    model.cut()
    torch.testing.assert_close(logits(made, model), masked, rtol=1e-5, atol=1e-5)


def test_importance_is_that_of_loras_gradients() -> None:
    torch.manual_seed(0)
    map_ = PrunableMap(torch.nn.Linear(3, 2), 1, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(map_.B)
    map_(torch.randn(5, 3)).square().sum().backward()
    assert map_.A.grad is not None
    assert map_.B.grad is not None
    for i in range(2):
        for j in range(3):
            g = map_.B.grad[i, 0] * map_.A[0, j] + map_.B[i, 0] * map_.A.grad[0, j]
            g = g - map_.B.grad[i, 0] * map_.A.grad[0, j]
            w = map_.linear.weight[i, j] + map_.B[i, 0] * map_.A[0, j]
            torch.testing.assert_close(map_.importance()[i, j], (g * w) ** 2)


def test_the_schedule_is_cubic() -> None:
    assert [cubic(x) for x in (0.0, 0.1, 0.7, 1.0)] == [0.0, 0.0, 1.0, 1.0]
    assert cubic(0.4) == pytest.approx(1 - 0.5**3)


def test_fused_maps_are_refused(tmp_path: Path) -> None:
    made = bench(tmp_path / "model", "gpt2", FUSED)
    with pytest.raises(AutopeftError, match="'gpt2' has q, k and v in one map"):
        LoRAPrune().fit(made.source, made.data, FAST)
