"""Networks beside the backbone, and how trained baselines are kept.

Shapes: L layers, B examples, T tokens, d width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_fingerprint import edit
from tiny_models import FFN, HIDDEN, LABELS, LAYERS, perturb
from tiny_packs import SETTINGS, Bench, bench
from tiny_quantised import wide_bench
from tiny_task import classes, tags

from autopeft.anatomy import embeddings_of, layers_of
from autopeft.attention import FUSED
from autopeft.baselines._kept import RECORD, WEIGHTS, load_baseline, record_of, save_baseline
from autopeft.baselines._side import BesideBackbone, SideBaseline
from autopeft.baselines.attention_fusion import AttentionFusion, Fusion
from autopeft.baselines.lst import LST
from autopeft.engine.data import collate, evaluation_batches
from autopeft.engine.train import measure
from autopeft.errors import AutopeftError

KINDS: list[SideBaseline] = [LST(reduction=4), AttentionFusion()]
NAMES = [kind.name for kind in KINDS]


@pytest.fixture(scope="module", params=["bert", "llama"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("model"), request.param, FUSED)


def beside(made: Bench, kind: SideBaseline) -> BesideBackbone:
    model = BesideBackbone(made.backbone, kind.network(made.backbone), record_of(kind, made.source, made.data))
    perturb(model.side)
    return model


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_one_pass_gives_what_the_kept_layers_give(made: Bench, kind: SideBaseline) -> None:
    model, tokens, frozen = beside(made, kind), made.data.validation, made.frozen()
    assert frozen.prepare_all([tokens])
    for batch in evaluation_batches(tokens, 200, made.data.pad_id):
        with torch.no_grad():
            one, kept = model(**batch.inputs), model(states=frozen.all_states(tokens, batch), **batch.inputs)
        torch.testing.assert_close(kept.logits, one.logits, rtol=1e-5, atol=1e-5)
    # What stands in the padding does not matter, and the backbone is bare again.
    alone = collate(tokens, batch.index[:1], made.data.pad_id)
    with torch.no_grad():
        torch.testing.assert_close(model(**alone.inputs).logits, one.logits[:1], rtol=1e-5, atol=1e-5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.backbone.model.base_model.modules())
    assert not any("forward" in m.__dict__ for m in made.backbone.model.modules())


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_no_gradient_goes_through_the_backbone(made: Bench, kind: SideBaseline) -> None:
    model, network = beside(made, kind), made.backbone.model
    network.requires_grad_(True)
    try:
        batch = collate(made.data.train, np.arange(4), made.data.pad_id)
        model(**batch.inputs).logits.square().sum().backward()
        below = [embeddings_of(network), *layers_of(network)]
        assert all(p.grad is None for module in below for p in module.parameters())
        assert all(p.grad is not None and bool(p.grad.any()) for p in model.side.parameters())
    finally:
        network.requires_grad_(False)
        network.zero_grad()


def test_counts_are_exact(made: Bench) -> None:
    d, w, f = HIDDEN, HIDDEN // 4, FFN // 4
    layer = (4 * w * w + 4 * w) + (2 * w * f + f + w) + 4 * w
    assert sum(p.numel() for p in KINDS[0].network(made.backbone).parameters()) == (
        (LAYERS + 1) * (d * w + w) + LAYERS * (layer + 1) + 2 * w + w * d + d
    )
    assert sum(p.numel() for p in KINDS[1].network(made.backbone).parameters()) == d + LAYERS + 1


def test_a_gate_decides_between_backbone_and_ladder(made: Bench) -> None:
    ladder = LST(reduction=4).network(made.backbone)
    perturb(ladder)
    states, mask = [torch.randn(2, 5, HIDDEN) for _ in range(LAYERS + 1)], torch.ones(2, 5, dtype=torch.bool)
    other = [torch.randn_like(states[0]), *states[1:]]
    for gate, same in ((10.0, True), (-10.0, False)):
        torch.nn.init.constant_(ladder.gates, gate)
        # Wide open, a layer reads the backbone's output alone; shut, only what came from the embeddings.
        assert torch.equal(ladder(states, mask), ladder(other, mask)) == same
    others = [states[0], *(torch.randn_like(state) for state in states[1:])]
    assert torch.equal(ladder(states, mask), ladder(others, mask))


def test_a_query_finds_the_layer_that_is_like_it() -> None:
    torch.manual_seed(0)
    fusion = Fusion(type("Shape", (), {"hidden": HIDDEN, "layers": 2})())  # type: ignore[arg-type]
    states, mask = [torch.randn(1, 4, HIDDEN) for _ in range(3)], torch.tensor([[True, True, True, False]])
    mean = torch.stack(states)[:, :, :3].mean((0, 2))
    torch.testing.assert_close(fusion(states, mask)[:, 0], mean)
    with torch.no_grad():
        fusion.query.copy_(10 * torch.nn.functional.layer_norm(states[2][0, 1], (HIDDEN,)))
        shares = fusion.shares(states, mask)
        assert float(shares[0, 2, 1]) > 0.99
        assert not bool(shares[..., 3].any())
        assert bool(shares.sum().isclose(torch.tensor(1.0)))


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_what_is_trained_is_kept_and_loaded_again(made: Bench, kind: SideBaseline, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 4, "batch_size": 13, "learning_rate": 0.02})
    fitted = kind.fit(made.source, made.data, settings)
    losses = [epoch["train_loss"] for epoch in fitted.curve]
    assert losses[-1] < losses[0] - 0.02
    model: Any = fitted.model
    assert fitted.trainable_params == sum(p.numel() for p in model.side.parameters())
    assert fitted.stored_bytes == 4 * fitted.trainable_params
    save_baseline(model, tmp_path)
    batch = collate(made.data.validation, np.arange(6), made.data.pad_id)
    with torch.no_grad():
        logits = model(**batch.inputs).logits
        assert logits.shape == (6, LABELS)
        assert torch.equal(load_baseline(tmp_path)(**batch.inputs).logits, logits)
    # Another fit on the same layers' outputs leaves the first one's model as it is.
    kind.fit(made.source, made.data, settings.model_copy(update={"seed": 2, "epochs": 1}))
    with torch.no_grad():
        assert torch.equal(model(**batch.inputs).logits, logits)
    again = kind.fit(made.source, made.data, settings)
    assert again.curve == fitted.curve


def test_labels_of_words_are_for_networks_that_tell_tokens_apart(tmp_path: Path) -> None:
    made = bench(tmp_path / "model", "bert", FUSED, other=tags())
    settings = SETTINGS.model_copy(update={"epochs": 1})
    with pytest.raises(AutopeftError, match="gives a text one vector, and labels of words need one a token; take lst"):
        AttentionFusion().fit(made.source, made.data, settings)
    fitted = LST(reduction=4).fit(made.source, made.data, settings)
    found = measure(fitted.model, made.data, made.data.validation)
    assert found == pytest.approx({name: fitted.curve[0][name] for name in found}, rel=1e-5)
    assert isinstance(fitted.model, BesideBackbone)
    save_baseline(fitted.model, tmp_path / "kept")
    assert measure(load_baseline(tmp_path / "kept"), made.data, made.data.validation) == found


def test_what_is_kept_knows_its_backbone(tmp_path: Path) -> None:
    made = wide_bench(tmp_path / "model", "int4")
    model = beside(made, LST())
    save_baseline(model, tmp_path / "kept")
    batch = collate(made.data.validation, np.arange(6), made.data.pad_id)
    with torch.no_grad():
        assert torch.equal(load_baseline(tmp_path / "kept")(**batch.inputs).logits, model(**batch.inputs).logits)
    edit(tmp_path / "model" / "config.json", "layer_norm_eps", 1e-3)
    with pytest.warns(UserWarning, match=r"kept: the base model is not the one that it was trained on: config\.json"):
        load_baseline(tmp_path / "kept")


def test_a_spoilt_folder_is_said_in_one_line(made: Bench, tmp_path: Path) -> None:
    save_baseline(beside(made, AttentionFusion()), tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    for change, place in (
        ({"readout": classes(5).to_json()}, WEIGHTS),
        ({"readout": {"name": "no such"}}, f"{RECORD}: readout: unknown readout 'no such'"),
        ({"options": {"wide": 1}}, WEIGHTS),
        ({"baseline": "lst", "options": {"reduction": 0}}, "lst: reduction: expected a whole number from 1"),
        ({"baseline": "lora_prune", "options": {"sparsity": 2}}, "lora_prune: sparsity: expected a number from 0.0 to"),
        ({"baseline": "lt_sft_global", "options": {"share": "x"}}, "lt_sft_global: share"),
        ({"baseline": "lst"}, WEIGHTS),
        ({"baseline": "no such"}, "unknown baseline 'no such'"),
        ({"pad_id": -1}, RECORD),
        ({"model": str(tmp_path / "away")}, "no such folder"),
    ):
        (tmp_path / RECORD).write_text(json.dumps(record | change))
        with pytest.raises(AutopeftError, match=place) as caught:
            load_baseline(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / RECORD).write_text(json.dumps(record))
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(AutopeftError, match="safetensors"):
        load_baseline(tmp_path)
