"""Exported adapters without a search: LoRA trained in a pack on the tiny task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_project import experiment

from autopeft.candidate import Candidate
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.data import TokenizedTask
from autopeft.engine.frozen import FrozenLayers
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import train_epoch, train_steps
from autopeft.engine.worker import device
from autopeft.exporting import write_adapter, write_record
from autopeft.fingerprint import model_files
from autopeft.hybrid import Hybrid
from autopeft.models import find_model
from autopeft.tasks import TaskData, task_from


@dataclass(frozen=True)
class Project:
    """A tiny model and task in a folder, and the task tokenised."""

    folder: Path
    spec: dict[str, Any]
    data: TaskData
    task: TokenizedTask

    @classmethod
    def of(cls, folder: Path) -> Project:
        spec = experiment(folder)
        data, source = task_from(spec["task"]).load(), find_model(spec["model"])
        return cls(folder, spec, data, TokenizedTask.of(data, source.tokenizer(), 16))

    def export(self, to: Path, hybrid: Hybrid, epochs: int = 6, seed: int = 0) -> Path:
        """Train a hybrid for so many epochs (0: none), and write what `autopeft export` writes."""
        source, task = find_model(self.spec["model"]), self.task
        settings = TrainingSettings(
            head="drawn",
            method_rates="shared",
            epochs=max(1, epochs),
            batch_size=16,
            max_length=16,
            learning_rate=1e-2,
            seed=seed,
        )
        backbone = Backbone(source, task.readout, REPORTED, device(), task.pad_id)
        frozen = FrozenLayers(backbone, task.pad_id, 0, 1)
        with Pack(backbone, [Candidate(hybrid)], settings, steps=train_steps(settings, task)) as pack:
            for epoch in range(1, epochs + 1):
                train_epoch(pack, task, frozen, epoch)
            weights = pack.weights(0)
        kind = write_adapter(source, Candidate(hybrid), weights, task.readout, to)
        write_record(to, self._record(hybrid, kind, settings))
        return to

    def _record(self, hybrid: Hybrid, kind: str, settings: TrainingSettings) -> dict[str, Any]:
        source = find_model(self.spec["model"])
        return {
            "key": Candidate(hybrid).key,
            "peft_type": kind,
            "format": "lora" if kind == "LORA" else "autopeft",
            "hybrid": hybrid.to_json(),
            "training": {},
            "seed": settings.seed,
            "metrics": {},
            "model": {"name": source.name, "location": source.location, "files": model_files(source.location)},
            "num_labels": self.task.readout.outputs,
            "labels": list(self.data.label_names),
            "scores": list(self.data.metrics),
            "task": self.spec["task"],
            "splits": self.data.note,
            "data": self.data.fingerprint,
            "settings": settings.model_dump(),
        }
