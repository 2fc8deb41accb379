"""A worker: one backbone, one tokenised task, and candidates one after another."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autopeft.attachment import Attachment
from autopeft.candidate import Candidate, Evaluation
from autopeft.engine.backbone import REPORTED, Backbone, choose_precision
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import Diverged, Rates, measure, train
from autopeft.models import ModelSource

#: What `Worker.run` yields after each epoch and returns at the end.
Run = Generator[Mapping[str, float], None, Evaluation]


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker is built from. `keep` is the folder for trained weights, `threads` the CPU threads (0: all)."""

    source: ModelSource
    settings: TrainingSettings
    keep: Path | None = None
    threads: int = 0


class Worker:
    """Evaluates candidates on one backbone, which is loaded once and never changed."""

    def __init__(self, spec: WorkerSpec, task: TokenizedTask, purpose: Literal["train", "report"] = "train") -> None:
        if spec.threads:
            torch.set_num_threads(spec.threads)
        self.spec, self.task, self.settings = spec, task, spec.settings
        self.device = _device()
        # What is reported is measured as the model card loads the model, whatever the precision of training.
        precision = choose_precision(self.settings.precision, self.device) if purpose == "train" else REPORTED
        self.backbone = Backbone(spec.source, task.num_labels, task.regression, precision, self.device, task.pad_id)

    def run(self, candidate: Candidate) -> Run:
        """Train and measure one candidate on the validation split; yields after each epoch.

        A loss that is not a number, or memory that runs out, is a failed evaluation with its reason, not an error.
        """
        start, curve = time.perf_counter(), list[Mapping[str, float]]()
        error: str | None = None
        try:
            with self.backbone.attach(candidate.hybrid, self.settings.seed) as attachment:
                for epoch in train(
                    self.backbone, self.task, self.settings, Rates.of(self.settings, candidate.training)
                ):
                    curve.append(epoch)
                    yield epoch
                self._keep(candidate, attachment)
        except Diverged as reason:
            error = str(reason)
        except (MemoryError, RuntimeError) as reason:
            if not _is_out_of_memory(reason):
                raise
            error = f"out of memory: {str(reason).splitlines()[0][:200]}"
        if error and self.device.type == "cuda":
            # Not while the exception is handled: its traceback holds the activations.
            torch.cuda.empty_cache()
        last = {} if error or not curve else {k: v for k, v in curve[-1].items() if k != "epoch"}
        return Evaluation(
            candidate=candidate,
            status="failed" if error else "done",
            metrics=last,
            curve=tuple(curve),
            seed=self.settings.seed,
            seconds=time.perf_counter() - start,
            error=error,
        )

    def test_metrics(self, candidate: Candidate, weights: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Metrics on the test split, as `test_<metric>`, of a candidate with trained weights."""
        with self.backbone.attach(candidate.hybrid, self.settings.seed) as attachment:
            self.backbone.load(attachment, weights)
            measured = measure(self.backbone.model, self.task, self.task.test, self.settings)
        return {f"test_{name}": value for name, value in measured.items()}

    def _keep(self, candidate: Candidate, attachment: Attachment) -> None:
        if self.spec.keep is not None:
            save_weights(self.spec.keep, candidate.key, self.backbone.weights(attachment))


def drain(run: Run) -> Evaluation:
    """The evaluation at the end of a run."""
    while True:
        try:
            next(run)
        except StopIteration as stop:
            evaluation: Evaluation = stop.value
            return evaluation


def save_weights(folder: Path, key: str, weights: dict[str, torch.Tensor]) -> None:
    """Write `<folder>/<key>.safetensors`, whole or not at all; a full disk loses the weights, not the evaluation."""
    partial = folder / f".{key}.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, partial)
        partial.replace(folder / f"{key}.safetensors")
    except (OSError, SafetensorError):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def load_weights(folder: Path, key: str) -> dict[str, torch.Tensor] | None:
    """What `save_weights` wrote; None when it is not there or not readable."""
    try:
        weights: dict[str, torch.Tensor] = load_file(folder / f"{key}.safetensors")
        return weights
    except (OSError, SafetensorError):
        return None


def _device() -> torch.device:
    if torch.cuda.is_available():
        # cuBLAS is deterministic with a fixed workspace only.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Deterministic mode also fills every new tensor, for bugs that are not ours; it costs a write each.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        return torch.device("cuda")
    return torch.device("cpu")


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    known: tuple[Any, ...] = (MemoryError, torch.OutOfMemoryError)
    said = ("can't allocate memory", "out of memory", "cublas_status_alloc_failed")
    return isinstance(error, known) or any(words in text for words in said)
