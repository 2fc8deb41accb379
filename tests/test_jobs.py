"""A job is a candidate, a seed and a number of epochs: what a worker trains, and what weights belong to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_stopped import drive
from tiny_models import everywhere
from tiny_task import save_model, task, tokenizer
from tiny_worker import assert_bare, backbone_state, evaluate

from autopeft import AutopeftError
from autopeft.candidate import Candidate, Evaluation, Job
from autopeft.engine.data import TokenizedTask
from autopeft.engine.kept import load_weights
from autopeft.engine.report import score_on_test, train_again
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.methods import LoRA, Sequential
from autopeft.models import find_model

SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=2, batch_size=16, max_length=32, precision="fp32", seed=1
)
LORA = Candidate(everywhere(LoRA(2)), {"learning_rate": 0.003})
SERIAL = Candidate(everywhere(Sequential(4)))


@pytest.fixture(scope="module")
def data() -> TokenizedTask:
    return TokenizedTask.of(task(sizes=(48, 24, 24)), tokenizer(), 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def spec(model: Path, tmp_path: Path) -> WorkerSpec:
    return WorkerSpec(find_model(str(model)), SETTINGS, keep=tmp_path / "weights")


def as_settings(spec: WorkerSpec, job: Job, folder: Path) -> WorkerSpec:
    """Whose own seed and epochs are the job's."""
    return replace(spec, settings=spec.settings.of(job), keep=folder)


def assert_same(found: Evaluation, other: Evaluation) -> None:
    assert (found.candidate, found.seed, found.status) == (other.candidate, other.seed, "done")
    for own, theirs in zip(found.curve, other.curve, strict=True):
        assert own == pytest.approx(theirs, rel=1e-5)


def test_jobs_of_any_seeds_and_epochs_train_as_alone(spec: WorkerSpec, data: TokenizedTask, tmp_path: Path) -> None:
    worker = Worker(spec, data)
    before = backbone_state(worker)
    jobs = [Job(LORA, 7), LORA, Job(SERIAL, 7), Job(LORA, 1, 3), SERIAL, Job(LORA, None, 2)]
    found = drain(worker.run(jobs))
    assert_bare(worker, before)
    assert [e.seed for e in found] == [7, 1, 7, 1, 1, 1]
    assert [e.fidelity for e in found] == [2, 2, 2, 3, 2, 2]
    for job, evaluation in zip(jobs, found, strict=True):
        job = Job.of(job)
        own = as_settings(spec, job, tmp_path / "alone")
        assert_same(evaluation, evaluate(Worker(own, data), job.candidate))
        # The file of the settings' own seed has the name that it had before there were others.
        kept, alone = load_weights(spec.keep, SETTINGS.weights_name(job)), load_weights(own.keep, job.candidate.key)
        assert all(torch.allclose(kept[n], alone[n], rtol=1e-4, atol=1e-6) for n in alone)
    names = {"-seed7", "", "-epochs3"}
    assert {p.stem for p in spec.keep.iterdir() if p.stem.startswith(LORA.key)} == {LORA.key + name for name in names}
    assert len({e.metrics["train_loss"] for e in found[:2]}) == 2, "another seed is another training"


def test_what_is_stopped_is_known_by_its_position(spec: WorkerSpec, data: TokenizedTask) -> None:
    jobs = [Job(LORA, 7), LORA, Job(SERIAL, 7), SERIAL]
    found, seen = drive(Worker(spec, data).run(jobs), {1: [2], 3: [1]})
    assert seen == [[0, 2], [0], [1, 3], [3]]
    assert [e.status for e in found] == ["done", "stopped", "stopped", "done"]


def test_test_scores_are_of_the_seed_that_is_asked_for(spec: WorkerSpec, data: TokenizedTask, tmp_path: Path) -> None:
    job = Job(LORA, 7)
    other = as_settings(spec, job, tmp_path / "alone")
    train_again(spec, data, job)
    assert [p.stem for p in spec.keep.iterdir()] == [f"{LORA.key}-seed7"]
    # That of the search's seed is not there, and is trained again; the other is read.
    mine, own = score_on_test(spec, data, [job, LORA])
    assert mine == pytest.approx(score_on_test(other, data, [LORA])[0], rel=1e-5)
    assert own["test_loss"] != mine["test_loss"]
    assert (spec.keep / f"{LORA.key}.safetensors").exists()
    evaluation = evaluate(Worker(spec, data), LORA)
    assert SETTINGS.weights_name(evaluation.job) == LORA.key


def test_a_job_is_plain_data() -> None:
    for job in (Job(LORA), Job(LORA, 0, 5), Job(SERIAL, 2**32 - 1)):
        assert Job.from_json(job.to_json()) == job
    for wrong in ({"seed": -1}, {"seed": 1.5}, {"seed": True}, {"epochs": 0}, {"epochs": "2"}, {"seed": "../x"}):
        with pytest.raises(AutopeftError, match=f"job: {next(iter(wrong))} must be a whole number"):
            Job.from_json(Job(LORA).to_json() | wrong)
    with pytest.raises(AutopeftError, match="job: expected"):
        Job.from_json({"candidate": LORA.to_json()})
