"""The engine on a GPU: what differs there from a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import LAYERS, TOGETHER, everywhere, make
from tiny_task import save_model, task, tokenizer

from autopeft.attaching import Attachment
from autopeft.candidate import Candidate, Evaluation
from autopeft.engine.data import TokenizedTask
from autopeft.engine.kept import load_weights
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.models import find_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=3, batch_size=8, precision="fp32", learning_rate=0.02, seed=1
)
ALL = Candidate(Hybrid.from_layers(LAYERS, {0: [make(name) for name in TOGETHER]}), {"learning_rate": 0.01})
LORA = Candidate(everywhere(LoRA(4)))


@pytest.fixture(scope="module")
def data() -> TokenizedTask:
    return TokenizedTask.of(task(), tokenizer(), 32)


@pytest.fixture
def spec(tmp_path: Path) -> WorkerSpec:
    return WorkerSpec(find_model(str(save_model(tmp_path / "model"))), SETTINGS, keep=tmp_path / "weights")


def run(worker: Worker, candidate: Candidate) -> Evaluation:
    return replace(drain(worker.run([candidate]))[0], seconds=0.0)


def test_the_same_seed_gives_the_same_evaluation_and_weights(spec: WorkerSpec, data: TokenizedTask) -> None:
    worker = Worker(spec, data)
    assert worker.device.type == "cuda"
    first, kept = run(worker, ALL), load_weights(spec.keep, ALL.key)
    run(worker, LORA)
    assert run(worker, ALL) == first
    assert run(Worker(spec, data), ALL) == first
    again = load_weights(spec.keep, ALL.key)
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_a_gpu_scores_like_a_cpu(spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch) -> None:
    here = run(Worker(spec, data), ALL)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    there = run(Worker(spec, data), ALL)
    assert here.metrics["loss"] == pytest.approx(there.metrics["loss"], abs=0.05)


def test_automatic_precision_is_bf16_and_close(spec: WorkerSpec, data: TokenizedTask) -> None:
    exact = run(Worker(spec, data), ALL)
    fast = Worker(replace(spec, settings=SETTINGS.model_copy(update={"precision": "auto"})), data)
    assert fast.backbone.precision.dtype == torch.bfloat16
    assert run(fast, ALL).metrics["accuracy"] == pytest.approx(exact.metrics["accuracy"], abs=0.15)


def test_detached_the_backbone_is_as_before(spec: WorkerSpec, data: TokenizedTask) -> None:
    worker = Worker(spec, data)
    before = {n: t.clone() for n, t in worker.backbone.model.base_model.state_dict().items()}
    run(worker, ALL)
    after = worker.backbone.model.base_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_a_pack_equals_single_models(spec: WorkerSpec, data: TokenizedTask) -> None:
    model = Worker(spec, data).backbone.model
    ids = torch.randint(5, 90, (4, 9), device="cuda")
    hybrids = [ALL.hybrid, Hybrid.from_layers(LAYERS, {}), LORA.hybrid]
    single = []
    for k, hybrid in enumerate(hybrids):
        with Attachment(model, hybrid, seeds=k), torch.no_grad():
            single.append(model(ids).logits)
    with Attachment(model, hybrids, seeds=[0, 1, 2]), torch.no_grad():
        packed = model(ids.repeat(3, 1)).logits.chunk(3)
    for a, b in zip(single, packed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_memory_that_runs_out_fails_one_candidate(spec: WorkerSpec, data: TokenizedTask) -> None:
    worker = Worker(spec, data)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    hog = Candidate(everywhere(LoRA(4), make("sequential", 200_000)))
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 32 * 2**20) / total)
    try:
        failed = drain(worker.run([hog]))[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert free > 0
    assert failed.status == "failed"
    assert "out of memory" in (failed.error or "")
    assert run(worker, LORA).status == "done"
