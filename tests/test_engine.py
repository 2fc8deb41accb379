"""A worker on a tiny BERT: candidates train, fail and leave no trace."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import LAYERS, TOGETHER, everywhere, make
from tiny_task import save_model, task, tokenizer
from tiny_worker import assert_bare, backbone_state, evaluate, result

from autopeft.anatomy import shape_of
from autopeft.attaching import NAME
from autopeft.candidate import Candidate
from autopeft.doing import hear, let_go
from autopeft.engine.backbone import choose_precision
from autopeft.engine.data import TokenizedTask
from autopeft.engine.kept import load_weights, save_weights
from autopeft.engine.optimizer import Rates
from autopeft.engine.pack import Pack
from autopeft.engine.report import score_on_test
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import epochs, measure_pack, train_steps
from autopeft.engine.worker import Worker, WorkerSpec
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.models import find_model

SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=3, batch_size=8, precision="fp32", learning_rate=0.02, seed=1
)
LORA = Candidate(everywhere(LoRA(4)))
OTHER = Candidate(Hybrid.from_layers(LAYERS, {0: [make(name) for name in TOGETHER]}), {"learning_rate": 0.01})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data() -> TokenizedTask:
    return TokenizedTask.of(task(), tokenizer(), 32)


@pytest.fixture
def spec(folder: Path, tmp_path: Path) -> WorkerSpec:
    return WorkerSpec(find_model(str(folder)), SETTINGS, keep=tmp_path / "weights")


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOGETHER)
def test_every_method_learns(name: str, spec: WorkerSpec, data: TokenizedTask) -> None:
    evaluation = evaluate(Worker(spec, data), Candidate(everywhere(make(name, 4))))
    assert (evaluation.status, evaluation.error, evaluation.seed) == ("done", None, 1)
    assert evaluation.metrics["accuracy"] > 0.6, "chance is 1/3"
    assert [c["epoch"] for c in evaluation.curve] == [1, 2, 3]
    assert {k: v for k, v in evaluation.curve[-1].items() if k != "epoch"} == evaluation.metrics
    assert set(evaluation.metrics) == {"accuracy", "f1_macro", "loss", "train_loss"}
    assert evaluation.curve[-1]["train_loss"] < 0.8 * evaluation.curve[0]["train_loss"]
    assert evaluation.seconds > 0


def test_the_hybrid_learns_more_than_the_head_alone(spec: WorkerSpec, data: TokenizedTask) -> None:
    worker = Worker(spec, data)
    hybrid, head = (evaluate(worker, c).metrics["train_loss"] for c in (LORA, Candidate(everywhere())))
    assert hybrid < 0.9 * head


def test_a_candidate_trains_the_same_whatever_ran_before(spec: WorkerSpec, data: TokenizedTask, tmp_path: Path) -> None:
    worker = Worker(spec, data)
    before = backbone_state(worker)
    one = evaluate(worker, LORA)
    weights = load_weights(tmp_path / "weights", LORA.key)
    assert_bare(worker, before)
    evaluate(worker, OTHER)
    abandoned = worker.run([OTHER])
    next(abandoned)
    abandoned.close()
    again = evaluate(worker, LORA)
    fresh = evaluate(Worker(spec, data), LORA)
    assert result(one) == result(again) == result(fresh)
    kept = load_weights(tmp_path / "weights", LORA.key)
    assert weights.keys() == kept.keys()
    assert all(torch.equal(weights[n], kept[n]) for n in weights)
    assert_bare(worker, before)


def test_another_seed_or_rate_is_another_run(spec: WorkerSpec, data: TokenizedTask) -> None:
    runs = [
        evaluate(Worker(spec, data), LORA),
        evaluate(Worker(replace(spec, settings=SETTINGS.model_copy(update={"seed": 2})), data), LORA),
        evaluate(Worker(spec, data), Candidate(LORA.hybrid, {"learning_rate": 0.01})),
    ]
    assert len({r.metrics["train_loss"] for r in runs}) == 3
    assert [r.seed for r in runs] == [1, 2, 1]


def test_an_abandoned_run_detaches(spec: WorkerSpec, data: TokenizedTask) -> None:
    worker = Worker(spec, data)
    before = backbone_state(worker)
    run = worker.run([OTHER])
    assert next(run)[0]["epoch"] == 1
    assert hasattr(worker.backbone.model, NAME)
    run.close()
    assert_bare(worker, before)
    assert load_weights(spec.keep, OTHER.key) is None


def test_regression(folder: Path, tmp_path: Path) -> None:
    data = TokenizedTask.of(task(regression=True), tokenizer(), 32)
    settings = SETTINGS.model_copy(update={"epochs": 6})
    evaluation = evaluate(Worker(WorkerSpec(find_model(str(folder)), settings, tmp_path), data), LORA)
    assert evaluation.status == "done"
    assert evaluation.metrics["pearson"] > 0.5
    assert evaluation.metrics["loss"] == pytest.approx(evaluation.metrics["mse"], rel=1e-5)
    assert load_weights(tmp_path, LORA.key)["head.classifier.weight"].shape == (1, 32)


def test_bf16_is_close_and_trains_in_fp32(spec: WorkerSpec, data: TokenizedTask) -> None:
    half = Worker(replace(spec, settings=SETTINGS.model_copy(update={"precision": "bf16"})), data)
    assert {p.dtype for p in half.backbone.model.base_model.parameters()} == {torch.bfloat16}
    run = half.run([OTHER])
    next(run)
    trained = {p.dtype for p in half.backbone.model.parameters() if p.requires_grad}
    run.close()
    assert trained == {torch.float32}
    for candidate in (LORA, OTHER):
        full, close = evaluate(Worker(spec, data), candidate), evaluate(half, candidate)
        assert close.status == "done"
        assert close.metrics["train_loss"] == pytest.approx(full.metrics["train_loss"], rel=0.1)
        assert close.metrics["accuracy"] == pytest.approx(full.metrics["accuracy"], abs=0.15)


def test_precisions() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("fp32", cpu).dtype == torch.float32
    assert choose_precision("bf16", cpu).dtype == torch.bfloat16
    assert choose_precision("auto", cpu) in (choose_precision("fp32", cpu), choose_precision("bf16", cpu))


def test_rates_of_the_candidate_go_before_the_settings() -> None:
    rates = Rates.of(SETTINGS, {"learning_rate": 0.5, "warmup": 0.5})
    assert (rates.learning_rate, rates.warmup) == (0.5, 0.5)
    assert (rates.weight_decay, rates.max_grad_norm) == (SETTINGS.weight_decay, SETTINGS.max_grad_norm)
    factors = [rates.factor(step, 10) for step in range(10)]
    assert factors[:5] == sorted(factors[:5])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert all(0 < f <= 1 for f in factors)
    assert max(factors) == 1


# --- weights ---------------------------------------------------------------------------------------------------------


def test_kept_weights_measure_like_the_model_right_after_training(spec: WorkerSpec, data: TokenizedTask) -> None:
    worker = Worker(spec, data)
    evaluation, backbone, frozen = evaluate(worker, OTHER), worker.backbone, worker.frozen
    with Pack(backbone, [OTHER], SETTINGS, steps=train_steps(SETTINGS, data)) as pack:
        curve = [metrics[0] for metrics in epochs(pack, data, frozen)]
        expected = measure_pack(pack, data, data.test, frozen)[0]
        own = pack.weights(0)
    assert evaluation.curve == tuple(curve)
    kept = load_weights(spec.keep, OTHER.key)
    assert kept.keys() == own.keys()
    assert all(torch.equal(kept[n], own[n]) for n in own)
    sizes = {part: sum(w.numel() for n, w in kept.items() if n.startswith(f"{part}.")) for part in ("hybrid", "head")}
    assert sizes["hybrid"] == OTHER.hybrid.num_params(shape_of(backbone.model))
    assert sizes["head"] == 3 * 33
    # What is reported is computed by stock attention, for all tokens.
    measured = Worker(spec, data, purpose="report").test_metrics(OTHER, kept)
    assert measured == pytest.approx({f"test_{name}": value for name, value in expected.items()}, rel=1e-5)


def test_weights_that_were_not_kept_are_trained_again(spec: WorkerSpec, data: TokenizedTask) -> None:
    evaluate(Worker(spec, data), LORA)
    said: list[str] = []
    hearer = SimpleNamespace(did=lambda stage: said.append(stage.what))
    hear(hearer)
    try:
        one = score_on_test(spec, data, [LORA, OTHER])
    finally:
        let_go(hearer)
    assert said == ["loading the model", "measuring on test"]
    (spec.keep / f"{LORA.key}.safetensors").write_bytes(b"half a fi")
    assert score_on_test(spec, data, [LORA, OTHER]) == one
    assert score_on_test(spec, data, []) == []
    assert sorted(p.name for p in spec.keep.iterdir()) == sorted(f"{c.key}.safetensors" for c in (LORA, OTHER))


def test_weights_that_cannot_be_kept_cost_no_evaluation(spec: WorkerSpec, data: TokenizedTask, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    evaluation = evaluate(Worker(replace(spec, keep=file), data), LORA)
    assert evaluation.status == "done"
    assert load_weights(file, LORA.key) is None


def test_a_full_disk_loses_the_weights_only(tmp_path: Path) -> None:
    """A limit on the size of files looks like a full disk to the one who writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        save_weights(tmp_path, "key", {"a": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    save_weights(tmp_path, "key", {"a": torch.ones(10_000)})
    assert torch.equal(load_weights(tmp_path, "key")["a"], torch.ones(10_000))
