"""What goes wrong in training is a failed evaluation with its reason, of that candidate alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import LAYERS, TOGETHER, everywhere, make
from tiny_task import save_model, task, tokenizer
from tiny_worker import assert_bare, backbone_state, evaluate, result

from autopeft.candidate import Candidate
from autopeft.engine import worker as worker_module
from autopeft.engine.data import TokenizedTask
from autopeft.engine.kept import load_weights
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import epochs
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.models import find_model

SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=3, batch_size=8, precision="fp32", learning_rate=0.02, seed=1
)
LORA = Candidate(everywhere(LoRA(4)))
OTHER = Candidate(Hybrid.from_layers(LAYERS, {0: [make(name) for name in TOGETHER]}), {"learning_rate": 0.01})
DIVERGING = Candidate(LORA.hybrid, {"learning_rate": 1e30})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data() -> TokenizedTask:
    return TokenizedTask.of(task(), tokenizer(), 32)


@pytest.fixture
def spec(folder: Path, tmp_path: Path) -> WorkerSpec:
    return WorkerSpec(find_model(str(folder)), SETTINGS, keep=tmp_path / "weights")


def test_a_loss_that_is_not_a_number_is_a_failed_evaluation(spec: WorkerSpec, data: TokenizedTask) -> None:
    worker = Worker(spec, data)
    before = backbone_state(worker)
    expected = evaluate(worker, OTHER)
    failed = evaluate(worker, DIVERGING)
    assert (failed.status, failed.metrics, failed.curve) == ("failed", {}, ())
    assert "the loss is nan in epoch 1" in failed.error
    assert load_weights(spec.keep, DIVERGING.key) is None
    assert_bare(worker, before)
    assert result(evaluate(worker, OTHER)) == result(expected)


def test_one_of_a_pack_that_diverges_costs_the_others_nothing(spec: WorkerSpec, data: TokenizedTask) -> None:
    worker = Worker(spec, data)
    before = backbone_state(worker)
    run, seen = worker.run([LORA, DIVERGING, OTHER]), []
    while True:
        try:
            seen.append(next(run))
        except StopIteration as stop:
            found = stop.value
            break
    assert [(sorted(epoch), epoch[0]["epoch"]) for epoch in seen] == [([0, 2], 1), ([0, 2], 2), ([0, 2], 3)]
    assert [e.candidate for e in found] == [LORA, DIVERGING, OTHER]
    assert [e.status for e in found] == ["done", "failed", "done"]
    assert "the loss is nan in epoch 1" in found[1].error
    assert all(e.seconds > 0 for e in found)
    assert not worker.spoilt
    assert_bare(worker, before)
    for k in (0, 2):
        assert [epoch[k] for epoch in seen] == list(found[k].curve)
        assert found[k].metrics == pytest.approx(evaluate(worker, found[k].candidate).metrics, rel=1e-2)


def test_weights_that_break_in_the_last_step_are_a_failed_evaluation(spec: WorkerSpec, data: TokenizedTask) -> None:
    """The training loss of one epoch of one step is that of the initial weights: finite."""
    settings = SETTINGS.model_copy(update={"epochs": 1, "batch_size": 1000})
    evaluation = evaluate(Worker(replace(spec, settings=settings), data), DIVERGING)
    assert evaluation.status == "failed"
    assert not any(math.isnan(v) for v in evaluation.metrics.values())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        MemoryError("no room"),
        RuntimeError("can't allocate memory: you"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_running_out_of_memory_is_a_failed_evaluation(
    error: Exception, spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(spec, data)
    before = backbone_state(worker)

    def fail(*args: Any) -> Iterator[list[dict[str, float]]]:
        yield [{"epoch": 1, "loss": 1.0, "train_loss": 1.0}]
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(worker_module, "epochs", fail)
        failed = evaluate(worker, LORA)
    assert (failed.status, failed.metrics) == ("failed", {})
    assert failed.error == f"out of memory: {error}"
    assert_bare(worker, before)
    assert evaluate(worker, LORA).status == "done"


def test_other_errors_are_failed_evaluations_of_a_spoilt_worker(
    spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(spec, data)
    before = backbone_state(worker)

    def fail(*args: Any) -> Iterator[list[dict[str, float]]]:
        raise RuntimeError("a  bug\nin two lines")
        yield

    monkeypatch.setattr(worker_module, "epochs", fail)
    assert not worker.spoilt
    failed = evaluate(worker, LORA)
    assert (failed.status, failed.metrics, failed.curve) == ("failed", {}, ())
    assert failed.error == "RuntimeError: a bug in two lines"
    assert worker.spoilt
    assert_bare(worker, before)


@pytest.mark.parametrize("fits", [1, 2])
def test_a_pack_that_does_not_fit_is_trained_in_halves(
    fits: int, spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, sizes = Worker(spec, data), []
    members = [LORA, OTHER, Candidate(everywhere()), Candidate(LORA.hybrid, {"learning_rate": 0.01})]
    expected = [evaluate(worker, c) for c in members]

    def only_small(pack: Pack, *args: Any) -> Iterator[list[dict[str, float]]]:
        sizes.append(len(pack.candidates))
        if sizes[-1] > fits:
            raise MemoryError("no room")
        yield from epochs(pack, *args)

    monkeypatch.setattr(worker_module, "epochs", only_small)
    found = drain(worker.run(members))
    assert sizes == ([4, 2, 1, 1, 2, 1, 1] if fits == 1 else [4, 2, 2])
    assert [e.candidate for e in found] == members
    assert [e.status for e in found] == ["done"] * 4
    for one, other in zip(found, expected, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-2)
    assert not worker.spoilt


def test_one_that_breaks_fails_alone(spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(spec, data)

    def break_one(pack: Pack, *args: Any) -> Iterator[list[dict[str, float]]]:
        for metrics in epochs(pack, *args):
            yield metrics
            if OTHER in pack.candidates:
                raise RuntimeError("a bug")

    monkeypatch.setattr(worker_module, "epochs", break_one)
    found = drain(worker.run([LORA, OTHER, Candidate(everywhere())]))
    assert [e.status for e in found] == ["done", "failed", "done"]
    assert found[1].error == "RuntimeError: a bug"
    assert [len(e.curve) for e in found] == [3, 0, 3]


def test_an_error_while_a_pack_is_taken_off_loses_no_evaluation(
    spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(spec, data)
    detach = worker_module.Pack.__exit__

    def fail(pack: Pack, *args: Any) -> None:
        detach(pack, *args)
        raise RuntimeError("a bug")

    monkeypatch.setattr(worker_module.Pack, "__exit__", fail)
    evaluations = drain(worker.run([LORA, OTHER]))
    assert [e.status for e in evaluations] == ["done", "done"]
    assert worker.spoilt
