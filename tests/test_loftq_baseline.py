"""LoftQ as a baseline: it begins nearer to the fp32 model than the quantised one, keeps 4 bits, and learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import LAYERS, right_padded
from tiny_quantised import KINDS, quantised
from tiny_task import classes, task, tokenizer

from autopeft.anatomy import shape_of
from autopeft.attaching import attach
from autopeft.baselines import BASELINES
from autopeft.baselines.loftq import RANK, SITES, begin
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import measure
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.quantising import Kind, kind_of

SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=3, batch_size=16, precision="fp32", learning_rate=3e-3, seed=1
)
FOUR_BITS = [kind for kind in KINDS if kind.values[0] != "int8"]


@pytest.mark.parametrize("kind", FOUR_BITS)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_it_begins_nearer_to_the_fp32_model(kind: Kind, family: str, tmp_path: Path) -> None:
    source = quantised(tmp_path / "model", kind, family)
    plain, model = (replace(source, quantise=k).model(classes(3), torch.float32) for k in (None, kind))
    inputs = right_padded(model, (7, 4))
    expected, before = (m.base_model(**inputs).last_hidden_state for m in (plain, model))
    with attach(model, Hybrid.uniform(LAYERS, LoRA(RANK, sites=SITES))) as attachment:
        attachment.banks.load(begin(model, plain))
        after = model.base_model(**inputs).last_hidden_state
    assert (after - expected).norm() < (before - expected).norm()


@pytest.mark.parametrize("kind", FOUR_BITS)
def test_it_keeps_4_bits_and_learns(kind: Kind, tmp_path: Path) -> None:
    source = quantised(tmp_path / "model", kind)
    tokens = TokenizedTask.of(task(), tokenizer(), 16)
    fitted = BASELINES.get("loftq")().fit(source, tokens, SETTINGS)
    model = fitted.model
    assert {kind_of(m) for m in model.modules()} == {None, kind}
    hybrid = Hybrid.uniform(LAYERS, LoRA(RANK, sites=SITES))
    assert fitted.trainable_params == fitted.kept_params == hybrid.num_params(shape_of(model))  # type: ignore[arg-type]
    assert fitted.stored_bytes == 4 * fitted.trainable_params
    assert fitted.curve[-1]["train_loss"] < fitted.curve[0]["train_loss"]
    assert measure(model, tokens, tokens.validation)["loss"] == pytest.approx(fitted.curve[-1]["loss"], rel=1e-5)
