"""A worker: one backbone, one tokenised task, and packs of candidates one after another."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from autopeft.candidate import Candidate, Evaluation, Job, Status
from autopeft.engine.backbone import REPORTED, Backbone, Precision, choose_precision
from autopeft.engine.company import Company, companies
from autopeft.engine.data import TokenizedTask
from autopeft.engine.frozen import FrozenLayers
from autopeft.engine.generated import Writers, add_texts
from autopeft.engine.kept import begin_at_origins, keep_units, save_weights
from autopeft.engine.linear_probe import start_at_probe
from autopeft.engine.pack import Pack
from autopeft.engine.schedule import CostModel, Workload
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.setup import Setup
from autopeft.engine.sharing import map_frozen
from autopeft.engine.train import epochs, evaluation_tokens, measure_pack, phase_steps
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.models import ModelSource
from autopeft.plugins import folder_codes, plugin_folders, use_plugins

#: What `Worker.run` yields after each epoch (metrics by the candidate's position), is sent (positions to stop; None for
#: none) and returns at the end.
Run = Generator[Mapping[int, Mapping[str, float]], Iterable[int] | None, list[Evaluation]]
_Epochs = Generator[Mapping[int, Mapping[str, float]], Iterable[int] | None, None]

#: Bytes of frozen layers' outputs that a worker keeps in memory; what is more lies on disk.
CACHE = 2**30


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker is built from.

    `keep` is the folder for trained weights, `threads` the CPU threads (0: all), `cache` the bytes of frozen layers'
    outputs kept in memory (0: none are kept, nor on disk), `setup` what was measured (without it, precision and
    attention are chosen by what the device is), `frozen` a file with the backbone's weights that workers share.
    """

    source: ModelSource
    settings: TrainingSettings
    keep: Path | None = None
    threads: int = 0
    cache: int = CACHE
    setup: Setup | None = None
    frozen: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A spec that another process gets brings the folders of plug-ins that this one uses."""
        values = tuple(getattr(self, field.name) for field in fields(self))
        return _arrived, (plugin_folders(), folder_codes(), values)


def _arrived(plugins: Sequence[str], codes: Mapping[str, str], values: Sequence[Any]) -> WorkerSpec:
    use_plugins(*plugins)
    here = folder_codes()
    for name, code in codes.items():
        if here.get(name) != code:
            file = name.rpartition(".")[2]
            raise AutopeftError(
                f"plug-in {file}.py: was changed while it is in use, and results would not be comparable; bring it "
                "back and give the same command again, or give another run folder (out)"
            )
    return WorkerSpec(*values)


class Worker:
    """Evaluates candidates on one backbone, which is loaded once and never changed.

    `spoilt` says that something unforeseen has happened: better to go on with a new worker.
    """

    def __init__(self, spec: WorkerSpec, task: TokenizedTask, purpose: Literal["train", "report"] = "train") -> None:
        if spec.threads:
            torch.set_num_threads(spec.threads)
        self.spec, self.task, self.settings = spec, task, spec.settings
        self.device, self.spoilt = device(), False
        # What is reported is measured as the model card loads the model, whatever the precision of training.
        precision = self._precision() if purpose == "train" else REPORTED
        self.backbone = Backbone(spec.source, task.readout, precision, self.device, task.pad_id)
        if spec.frozen and purpose == "train" and self.device.type == "cpu":
            map_frozen(self.backbone.model, spec.frozen)
        self.frozen = FrozenLayers(self.backbone, task.pad_id, spec.cache, evaluation_tokens(self.device))
        if self.settings.head == "probe" and purpose == "train":
            start_at_probe(self.backbone, task, self.settings, self.frozen)
        workload = Workload.of(task, self.settings)
        first_token = precision.attention is not None and task.readout.reads == "one"
        self.costs = CostModel(self.backbone.shape, workload, self.settings.epochs, bool(spec.cache), first_token)

    def run(self, jobs: Sequence[Candidate | Job]) -> Run:
        """Train and measure candidates on the validation split; yields after each epoch of a pack.

        A candidate alone is a job of the settings. Those of a pack see the same batches, whose order is the seed's, in
        schedules of the same length: so jobs of different seeds or epochs are several packs, one after another, and so
        are those whose methods ask for it (see `Company`).
        Candidates whose positions are sent back are stopped there (not after the last epoch), and the others go on.
        An error is a failed evaluation with its reason: a loss that is not a number costs nobody else anything; after
        any other error the rest of the pack is trained again in halves, so that memory suffices, or the one that
        cannot be trained stands alone.
        """
        evaluations: dict[int, Evaluation] = {}
        for members in self._groups([self.settings.job(job) for job in jobs], evaluations):
            yield from self._attempt(members, evaluations)
        return [evaluations[i] for i in range(len(jobs))]

    def test_metrics(self, candidate: Candidate, weights: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Metrics on the test split, as `test_<metric>`, of a candidate with trained weights."""
        # What lies below the first adapted layers is computed once for all that are reported.
        start = self.backbone.shape.entrance(candidate.hybrid.first_adapted)
        if not self.frozen.prepare((self.task.test,), [start]):
            start = 0
        with Pack(self.backbone, [candidate], self.settings, [start]) as pack:
            pack.load(0, weights)
            measured = measure_pack(pack, self.task, self.task.test, self.frozen)[0]
        return {f"test_{name}": value for name, value in measured.items()}

    def _precision(self) -> Precision:
        setup = self.spec.setup
        return setup.chosen if setup else choose_precision(self.settings.precision, self.device)

    def _groups(self, jobs: Sequence[Job], evaluations: dict[int, Evaluation]) -> list[dict[int, Job]]:
        """Jobs that are trained together, by position; what cannot be trained so long is a failed evaluation."""
        groups = []
        for members in _alike(jobs):
            trained: dict[int, Hybrid] = {}
            for i, job in members.items():
                try:
                    Company.of(job.candidate.hybrid).epochs(self.settings.of(job).epochs)
                    trained[i] = job.candidate.hybrid
                except AutopeftError as error:
                    evaluations[i] = self._evaluation(job, [], 0.0, str(error))
            groups += [{i: members[i] for i in group} for group in companies(trained)]
        return groups

    def _attempt(self, members: Mapping[int, Job], evaluations: dict[int, Evaluation]) -> _Epochs:
        try:
            yield from self._train(members, evaluations)
            add_texts(writers_of(self), self.spec.keep, members, evaluations)
            return
        except Exception as error:
            reason = in_words(error)
            self.spoilt |= not _is_out_of_memory(error)
        if self.device.type == "cuda":
            # Not while the exception is handled: its traceback holds the activations.
            torch.cuda.empty_cache()
        left = [i for i in members if i not in evaluations]
        if not left:
            # It came while the pack was taken off.
            return
        if len(left) == 1:
            evaluations[left[0]] = self._evaluation(members[left[0]], [], 0.0, reason)
            return
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            yield from self._attempt({i: members[i] for i in half}, evaluations)

    def _train(self, members: Mapping[int, Job], evaluations: dict[int, Evaluation]) -> _Epochs:
        clock, enter = time.perf_counter(), self.backbone.shape.entrance
        starts = {i: enter(job.candidate.hybrid.first_adapted) for i, job in members.items()}
        if not self.frozen.prepare((self.task.train, self.task.validation), list(starts.values())):
            starts = dict.fromkeys(starts, 0)
        order = sorted(members, key=lambda i: starts[i])
        curves: dict[int, list[Mapping[str, float]]] = {i: [] for i in order}
        seconds = dict.fromkeys(order, 0.0)
        work = {i: 1 + self.costs.candidate(members[i].candidate.hybrid) for i in order}
        settings, candidates = self.settings.of(members[order[0]]), [members[i].candidate for i in order]
        steps = phase_steps(settings, self.task, Company.of(candidates[0].hybrid))
        with Pack(self.backbone, candidates, settings, [starts[i] for i in order], steps) as pack:
            begin_at_origins(pack, [members[i] for i in order], self.spec.keep)
            for epoch in epochs(pack, self.task, self.frozen):
                passed = time.perf_counter() - clock
                for i in order:
                    seconds[i] += passed * work[i] / sum(work[j] for j in order)
                wrong = {i: why for i, metrics in zip(order, epoch, strict=True) if (why := _divergence(metrics))}
                for i, why in wrong.items():
                    evaluations[i] = self._evaluation(members[i], curves[i], seconds[i], why)
                going = {i: metrics for i, metrics in zip(order, epoch, strict=True) if i not in wrong}
                for i, metrics in going.items():
                    curves[i].append(metrics)
                stopped = set((yield going) or ()) if going else set()
                left = [i for i in going if i not in stopped or len(curves[i]) == settings.epochs]
                for i in going.keys() - left:
                    evaluations[i] = self._evaluation(members[i], curves[i], seconds[i], stopped=True)
                if not left:
                    return
                if len(left) < len(order):
                    pack.keep([k for k, i in enumerate(order) if i in left])
                order, clock = left, time.perf_counter()
            for k, i in enumerate(order):
                if self.spec.keep is not None:
                    save_weights(self.spec.keep, self.settings.weights_name(members[i]), pack.weights(k))
                evaluations[i] = self._evaluation(members[i], curves[i], seconds[i])
            if self.spec.keep is not None:
                names = [self.settings.weights_name(members[i]) if members[i].cuttable else None for i in order]
                keep_units(pack, names, self.task, self.frozen, self.spec.keep)

    def _evaluation(
        self,
        job: Job,
        curve: Sequence[Mapping[str, float]],
        seconds: float,
        error: str | None = None,
        stopped: bool = False,
    ) -> Evaluation:
        last = {} if error or not curve else {k: v for k, v in curve[-1].items() if k != "epoch"}
        status: Status = "failed" if error else "stopped" if stopped else "done"
        return Evaluation(
            job.candidate,
            status,
            last,
            curve=tuple(curve),
            seed=job.seed or 0,
            seconds=seconds,
            error=error,
            epochs=None if job.epochs == self.settings.epochs else job.epochs,
            origin=job.origin,
        )


def writers_of(worker: Worker) -> Writers:
    """What has trained candidates write on a worker's backbone."""
    return Writers(worker.backbone, worker.task, worker.settings, worker.spec.source.tokenizer)


def _alike(jobs: Sequence[Job]) -> list[dict[int, Job]]:
    """The jobs that one pack can train, by position: of one seed and as many epochs."""
    groups: dict[tuple[int | None, int | None], dict[int, Job]] = {}
    for i, job in enumerate(jobs):
        groups.setdefault((job.seed, job.epochs), {})[i] = job
    return list(groups.values())


def drain(run: Run, heard: Callable[[], None] = lambda: None) -> list[Evaluation]:
    """The evaluations at the end of a run; `heard` is called after each epoch of a pack."""
    while True:
        try:
            next(run)
            heard()
        except StopIteration as stop:
            evaluations: list[Evaluation] = stop.value
            return evaluations


def device() -> torch.device:
    """The GPU that this process sees, or the CPU."""
    if torch.cuda.is_available():
        # cuBLAS is deterministic with a fixed workspace only.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Deterministic mode also fills every new tensor, for bugs that are not ours; it costs a write each.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        return torch.device("cuda")
    return torch.device("cpu")


def _divergence(metrics: Mapping[str, float]) -> str | None:
    """What is not a number after an epoch, if anything is."""
    if not math.isfinite(metrics["train_loss"]):
        return f"the loss is {metrics['train_loss']} in epoch {metrics['epoch']}"
    if not math.isfinite(metrics["loss"]):
        return f"the validation loss is {metrics['loss']} after epoch {metrics['epoch']}"
    return None


def in_words(error: Exception) -> str:
    """A training's error in a line."""
    text = " ".join(str(error).split())[:300]
    return f"out of memory: {text}" if _is_out_of_memory(error) else f"{type(error).__name__}: {text}"


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    known: tuple[Any, ...] = (MemoryError, torch.OutOfMemoryError)
    said = ("can't allocate memory", "out of memory", "cublas_status_alloc_failed")
    return isinstance(error, known) or any(words in text for words in said)
