"""What a worker asks of a GPU, held without one."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import everywhere
from tiny_task import save_model, task, tokenizer

from autopeft.candidate import Candidate
from autopeft.engine import worker as worker_module
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.methods.lora import LoRA
from autopeft.models import find_model


def test_the_cache_is_emptied_when_nothing_holds_the_activations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = WorkerSpec(
        find_model(str(save_model(tmp_path))),
        TrainingSettings(head="drawn", method_rates="shared", batch_size=8, precision="fp32"),
    )
    worker, alive = Worker(spec, TokenizedTask.of(task(), tokenizer(), 32)), []

    def fail(*args: Any) -> Iterator[list[dict[str, float]]]:
        activations = torch.ones(3)
        alive.append(weakref.ref(activations))
        raise MemoryError("no room")
        yield

    monkeypatch.setattr(worker_module, "epochs", fail)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(alive[0]() is None))
    worker.device = SimpleNamespace(type="cuda")
    assert drain(worker.run([Candidate(everywhere(LoRA(2)))]))[0].status == "failed"
    assert alive[1:] == [True]


def test_gpus_are_asked_to_be_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        assert worker_module.device().type == "cuda"
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
