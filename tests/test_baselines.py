"""What trains the backbone itself: by the engine's own recipe, on a copy of its own, and counted exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_task import save_model, tags, task, tokenizer
from tiny_worker import evaluate

from autopeft.attaching import attach
from autopeft.baselines import BASELINES
from autopeft.baselines._training import own_backbone, train_model
from autopeft.candidate import Candidate
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import measure
from autopeft.engine.worker import Worker, WorkerSpec
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS
from autopeft.models import ModelSource, find_model

SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=2, batch_size=16, precision="fp32", learning_rate=1e-3, seed=1
)


@pytest.fixture(scope="module", params=["bert", "llama"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return find_model(str(save_model(tmp_path_factory.mktemp("model"), request.param)))


@pytest.fixture(scope="module")
def tokens() -> TokenizedTask:
    return TokenizedTask.of(task(), tokenizer(), 16)


@pytest.mark.parametrize(
    ("words", "head"), [(False, None), (True, None), (False, 2e-2)], ids=["classes", "words", "head's rate"]
)
def test_the_plain_loop_trains_as_the_engine_does(
    source: ModelSource, tokens: TokenizedTask, words: bool, head: float | None
) -> None:
    """Of labels of words a batch counts by those that are labelled."""
    settings = SETTINGS.model_copy(update={"head_learning_rate": head})
    tokens = TokenizedTask.of(tags(), tokenizer(), 16) if words else tokens
    tokens = replace(tokens, train=replace(tokens.train, types=None), validation=replace(tokens.validation, types=None))
    hybrid = Hybrid.uniform(source.shape().layers, METHODS.get("lora")(rank=4))
    evaluation = evaluate(Worker(WorkerSpec(source, settings), tokens), Candidate(hybrid))
    backbone = own_backbone(source, tokens, settings)
    with attach(backbone.model, hybrid, settings.seed):
        before = [p.clone() for p in backbone.model.parameters() if p.requires_grad]
        curve = train_model(backbone.model, tokens, settings, backbone.heads.values()).curve
        after = [p for p in backbone.model.parameters() if p.requires_grad]
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(curve) == len(evaluation.curve) == settings.epochs
    for mine, theirs in zip(curve, evaluation.curve, strict=True):
        assert mine == pytest.approx(dict(theirs), rel=1e-5)


def test_full_fine_tuning_trains_every_weight_and_learns(source: ModelSource, tokens: TokenizedTask) -> None:
    tokens = replace(tokens, **{s: replace(getattr(tokens, s), types=None) for s in ("train", "validation", "test")})
    settings = SETTINGS.model_copy(update={"epochs": 6, "learning_rate": 2e-3})
    before = own_backbone(source, tokens, settings).model.base_model.state_dict()
    fitted = BASELINES.get("full_fine_tuning")().fit(source, tokens, settings)
    after = fitted.model.base_model.state_dict()  # type: ignore[union-attr,operator]
    same = [name for name, tensor in before.items() if tensor.is_floating_point() and torch.equal(tensor, after[name])]
    assert not [name for name in same if "position" not in name and "rotary" not in name]
    count = sum(p.numel() for p in fitted.model.base_model.parameters())  # type: ignore[union-attr]
    assert fitted.trainable_params == fitted.kept_params == source.shape().backbone_params == count
    assert fitted.stored_bytes == 4 * count
    assert fitted.curve[-1]["train_loss"] < 0.7 * fitted.curve[0]["train_loss"]
    # What is given back is the model that the last epoch was measured with.
    assert measure(fitted.model, tokens, tokens.validation)["loss"] == pytest.approx(fitted.curve[-1]["loss"], rel=1e-5)


def test_a_loss_that_is_no_number_is_one_line(source: ModelSource, tokens: TokenizedTask) -> None:
    tokens = replace(tokens, train=replace(tokens.train, types=None))
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(AutopeftError, match="the loss is nan in epoch 1"):
        BASELINES.get("full_fine_tuning")().fit(source, tokens, settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*BASELINES.names()} - {"warp", "loftq"}))
def test_heads_of_baselines_have_their_own_rate(source: ModelSource, tokens: TokenizedTask, name: str) -> None:
    """WARP has no head, and LoftQ wants wider maps."""
    tokens = replace(tokens, train=replace(tokens.train, types=None), validation=replace(tokens.validation, types=None))
    tokens = replace(tokens, train=tokens.train.take(np.arange(16)))
    slow = SETTINGS.model_copy(update={"learning_rate": 1e-6})
    fast = slow.model_copy(update={"head_learning_rate": 0.1})
    losses = []
    for settings in (slow, fast):
        try:
            fitted = BASELINES.get(name)().fit(source, tokens, settings)
        except AutopeftError as error:
            pytest.skip(str(error))
        losses.append(fitted.curve[-1]["loss"])
    assert abs(losses[1] - losses[0]) > 1e-2
