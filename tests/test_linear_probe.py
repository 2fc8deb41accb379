"""Heads that start from a linear probe of the frozen backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import everywhere
from tiny_task import save_model, task, tokenizer
from tiny_worker import evaluate, result

from autopeft.baselines._training import own_backbone
from autopeft.candidate import Candidate, Job
from autopeft.engine.data import TokenizedTask
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import measure_pack
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.models import find_model

DRAWN = TrainingSettings(head="drawn", method_rates="shared", epochs=2, batch_size=8, precision="fp32", seed=1)
PROBE = DRAWN.model_copy(update={"head": "probe"})
ONE = Candidate(everywhere(LoRA(4)), {"learning_rate": 1e-3})
OTHER = Candidate(everywhere(LoRA(2)), {"learning_rate": 3e-3})


@pytest.fixture(scope="module")
def data() -> TokenizedTask:
    return TokenizedTask.of(task(), tokenizer(), 32)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> WorkerSpec:
    return WorkerSpec(find_model(str(save_model(tmp_path_factory.mktemp("model")))), PROBE)


@pytest.fixture(scope="module")
def worker(spec: WorkerSpec, data: TokenizedTask) -> Worker:
    return Worker(spec, data)


def first_losses(worker: Worker, candidates: list[Candidate]) -> list[float]:
    """Validation losses before any step."""
    with Pack(worker.backbone, candidates, worker.settings) as pack:
        return [m["loss"] for m in measure_pack(pack, worker.task, worker.task.validation, worker.frozen)]


def test_training_starts_from_what_the_backbone_knows(spec: WorkerSpec, data: TokenizedTask, worker: Worker) -> None:
    drawn = Worker(replace(spec, settings=DRAWN), data)
    probed, before = first_losses(worker, [ONE, OTHER]), first_losses(drawn, [ONE])[0]
    # Both methods begin at zero, so the head alone speaks.
    assert probed[0] == pytest.approx(probed[1], rel=1e-5)
    assert probed[0] < before - 0.01
    trained = evaluate(worker, ONE)
    assert trained.curve[0]["loss"] < before


def test_a_pack_equals_its_members_alone(worker: Worker) -> None:
    together = drain(worker.run([ONE, OTHER]))
    for packed, candidate in zip(together, (ONE, OTHER), strict=True):
        alone = evaluate(worker, candidate)
        assert [c["train_loss"] for c in packed.curve] == pytest.approx([c["train_loss"] for c in alone.curve], 1e-5)


def test_every_worker_and_seed_has_the_same_probe(spec: WorkerSpec, data: TokenizedTask, worker: Worker) -> None:
    another = Worker(spec, data)
    assert worker.backbone.head_start.keys() == {"classifier.weight", "classifier.bias"}
    for name, value in worker.backbone.head_start.items():
        assert torch.equal(another.backbone.head_start[name], value)
    assert result(evaluate(another, ONE)) == result(evaluate(worker, ONE))
    for seed in (1, 2):
        with Pack(worker.backbone, [ONE], PROBE.of(Job(ONE, seed))) as pack:
            assert torch.equal(
                pack.weights(0)["head.classifier.weight"], worker.backbone.head_start["classifier.weight"]
            )


def test_baselines_start_from_it_too(spec: WorkerSpec, data: TokenizedTask) -> None:
    backbone = own_backbone(spec.source, data, PROBE)
    assert torch.equal(backbone.model.get_parameter("classifier.weight"), backbone.head_start["classifier.weight"])


def test_nothing_is_left_on_the_backbone(worker: Worker) -> None:
    assert not any("forward" in module.__dict__ for module in worker.backbone.model.modules())


def test_a_large_split_is_probed_by_a_part_of_it(
    spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autopeft.engine import linear_probe

    monkeypatch.setattr(linear_probe, "_EXAMPLES", 40)
    worker = Worker(spec, data)
    assert worker.backbone.head_start
    assert worker.task.train is data.train


def test_a_heads_own_rate_is_not_the_probes(spec: WorkerSpec, data: TokenizedTask, worker: Worker) -> None:
    own = Worker(replace(spec, settings=PROBE.model_copy(update={"head_learning_rate": 1e-6})), data)
    assert own.backbone.head_start.keys() == worker.backbone.head_start.keys()
    assert all(torch.equal(own.backbone.head_start[n], t) for n, t in worker.backbone.head_start.items())


def test_old_studies_are_of_drawn_heads() -> None:
    assert "head" not in DRAWN.identity()
    assert PROBE.identity()["head"] == "probe"


def test_an_empty_hybrid_goes_on_from_the_probe(worker: Worker) -> None:
    head = Candidate(Hybrid.uniform(worker.backbone.shape.layers), {"learning_rate": 1e-3})
    assert evaluate(worker, head).curve[0]["loss"] <= first_losses(worker, [head])[0] + 0.01


def test_kept_weights_are_whole(spec: WorkerSpec, data: TokenizedTask, tmp_path: Path) -> None:
    worker = Worker(replace(spec, keep=tmp_path), data)
    done = evaluate(worker, ONE)
    assert done.status == "done"
    assert (tmp_path / f"{ONE.key}.safetensors").is_file()
