"""How a contender is trained, tested and measured: a hybrid in packs on the engine, a baseline by itself."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.baselines import BASELINES, Fitted
from autopeft.candidate import Candidate, Evaluation
from autopeft.comparing import measuring
from autopeft.comparing.choosing import choose
from autopeft.comparing.contenders import Contender
from autopeft.comparing.state import Training
from autopeft.doing import doing
from autopeft.engine.kept import load_weights, not_kept
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.setup import Setup
from autopeft.engine.train import measure
from autopeft.engine.worker import Worker, drain, in_words
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.merging import unmerged
from autopeft.session import Session, spec_of

if TYPE_CHECKING:
    from torch import nn

    from autopeft.engine.worker import WorkerSpec

Costs = dict[str, float | None]


class Bench:
    """What all contenders share: one worker that trains, one that reports, and a folder for weights."""

    def __init__(self, session: Session, setup: Setup, weights: Path) -> None:
        self.session, self.setup, self.weights = session, setup, weights
        self.task = session.tokens
        # What was measured holds for all, baselines too.
        self.settings = session.experiment.training.model_copy(update={"precision": setup.precision})

    def spec(self, seed: int) -> WorkerSpec:
        """How a worker is built that trains with that seed, and keeps the weights apart from other seeds'."""
        spec = spec_of(self.session, self.weights / str(seed), self.setup)
        return replace(spec, settings=self.settings.model_copy(update={"seed": seed}))

    @cached_property
    def _trainer(self) -> Worker:
        return Worker(self.spec(self.settings.seed), self.task)

    def worker(self, seed: int) -> Worker:
        """The worker that trains, at that seed; its backbone and frozen layers do not depend on seeds."""
        if "_trainer" in self.__dict__ and self._trainer.spoilt:
            # Something unforeseen has happened on it.
            del self._trainer
        with doing("loading the model"):
            trainer = self._trainer
        trainer.spec = self.spec(seed)
        trainer.settings = trainer.spec.settings
        return trainer

    @cached_property
    def reporter(self) -> Worker:
        """The worker that tests, in the precision of what is exported."""
        return Worker(self.spec(self.settings.seed), self.task, purpose="report")


class Arm(ABC):
    """One contender at work. Test metrics are looked at in `test` only, which is called for the chosen rate."""

    def __init__(self, contender: Contender, bench: Bench) -> None:
        self.contender, self.bench = contender, bench

    @abstractmethod
    def tune(self, rates: Sequence[float], seed: int) -> list[Training]:
        """Train at some of the rates: all that go together, or the first alone."""

    @abstractmethod
    def test(self, rate: float, seed: int, tuned: Training | None) -> Training:
        """Train at the chosen rate, measure on test; `tuned` is what tuning said of that rate, if with that seed."""

    @abstractmethod
    def costs(self, rate: float, seed: int) -> Costs:
        """Parameters, bytes, memory, seconds and milliseconds, after `test` with that seed."""


def arm_of(contender: Contender, bench: Bench) -> Arm:
    """A hybrid's or a baseline's."""
    return BaselineArm(contender, bench) if contender.hybrid is None else HybridArm(contender, bench, contender.hybrid)


class HybridArm(Arm):
    """Trained in packs, as a search does."""

    def __init__(self, contender: Contender, bench: Bench, hybrid: Hybrid) -> None:
        super().__init__(contender, bench)
        self.hybrid = hybrid

    def tune(self, rates: Sequence[float], seed: int) -> list[Training]:
        """A pack of rates."""
        some = rates[: self.bench.setup.pack]
        return [_training(rate, seed, e) for rate, e in zip(some, self._train(some, seed), strict=True)]

    def test(self, rate: float, seed: int, tuned: Training | None) -> Training:
        """Of the weights that tuning kept, where they are there."""
        candidate, folder = self._candidate(rate), self.bench.weights / str(seed)
        weights = load_weights(folder, candidate.key) if tuned else None
        if tuned is None or weights is None:
            tuned = _training(rate, seed, self._train([rate], seed)[0])
            weights = load_weights(folder, candidate.key)
        if tuned.error:
            return tuned
        if weights is None:
            raise not_kept(folder)
        with doing("measuring on test"):
            return tuned.model_copy(update={"test": self.bench.reporter.test_metrics(candidate, weights)})

    def costs(self, rate: float, seed: int) -> Costs:
        """Counts are exact, and the rest is measured with this candidate alone."""
        bench = self.bench
        known, candidate = bench.session.costs(self.hybrid), self._candidate(rate)
        worker = bench.worker(seed)
        return {
            **{name: known[name] for name in ("trainable_params", "kept_params", "stored_bytes")},
            "peak_memory_bytes": measuring.hybrid_memory(worker, candidate),
            "seconds_per_epoch": measuring.epoch_seconds(worker, candidate),
            **_latencies(bench, self.hybrid, self._merged()),
        }

    def _merged(self) -> nn.Module | None:
        """The backbone with the hybrid merged into it, as an export merges; None where a method does not merge."""
        if self.hybrid.is_empty or unmerged(self.hybrid):
            return None
        from autopeft.peft_tuner import HybridConfig, peft_model

        base = copy.deepcopy(self.bench.reporter.backbone.model)
        try:
            merged: nn.Module = peft_model(base, HybridConfig(hybrid=self.hybrid)).merge_and_unload()
        except AutopeftError:
            return None
        return merged.eval()

    def _candidate(self, rate: float) -> Candidate:
        return Candidate(self.hybrid, {"learning_rate": rate})

    def _train(self, rates: Sequence[float], seed: int) -> list[Evaluation]:
        run = self.bench.worker(seed).run([self._candidate(rate) for rate in rates])
        with doing("epochs of a training", self.bench.settings.epochs, aside=True) as stage:
            return drain(run, stage.step)


class BaselineArm(Arm):
    """Trained one by one; the model of the best rate so far stays in memory."""

    def __init__(self, contender: Contender, bench: Bench) -> None:
        super().__init__(contender, bench)
        self.baseline = BASELINES.get(contender.name)()
        self._kept: tuple[Training, Fitted] | None = None

    def tune(self, rates: Sequence[float], seed: int) -> list[Training]:
        """The first rate."""
        training, fitted = self._fit(rates[0], seed)
        so_far = [self._kept[0], training] if self._kept else [training]
        if fitted is not None and choose(self.bench.session.data.metrics[0], so_far) is training:
            self._kept = training, fitted
        return [training]

    def test(self, rate: float, seed: int, tuned: Training | None) -> Training:
        """Of the model that is there, or of one that is trained again."""
        training, fitted = self._at(rate, seed)
        if fitted is None:
            return training
        task = self.bench.task
        with doing("measuring on test"):
            tested = {f"test_{name}": value for name, value in measure(fitted.model, task, task.test).items()}
        return training.model_copy(update={"test": tested})

    def costs(self, rate: float, seed: int) -> Costs:
        """As the baseline counts; memory by training two steps of another copy."""
        bench, fitted = self.bench, self._at(rate, seed)[1]
        if fitted is None:
            raise AutopeftError("it trains at this rate no more")
        return {
            "trainable_params": fitted.trainable_params,
            "kept_params": fitted.kept_params,
            "stored_bytes": fitted.stored_bytes,
            "peak_memory_bytes": measuring.baseline_memory(
                self.baseline, bench.session.source, bench.task, self._settings(rate, seed), bench.reporter.device
            ),
            "seconds_per_epoch": fitted.seconds_per_epoch,
            **_latencies(bench, fitted.model, fitted.merged),
        }

    def _at(self, rate: float, seed: int) -> tuple[Training, Fitted | None]:
        if self._kept and (self._kept[0].learning_rate, self._kept[0].seed) == (rate, seed):
            return self._kept
        # The one before goes first: two large models may not fit.
        self._kept = None
        training, fitted = self._fit(rate, seed)
        if fitted is not None:
            self._kept = training, fitted
        return training, fitted

    def _fit(self, rate: float, seed: int) -> tuple[Training, Fitted | None]:
        bench, fitted = self.bench, None
        try:
            fitted = self.baseline.fit(bench.session.source, bench.task, self._settings(rate, seed))
        except Exception as error:
            # Whatever it is, the other rates and contenders go on.
            return Training(learning_rate=rate, seed=seed, error=in_words(error)), None
        return Training(learning_rate=rate, seed=seed, validation=_finite(fitted.curve[-1])), fitted

    def _settings(self, rate: float, seed: int) -> TrainingSettings:
        return self.bench.settings.model_copy(update={"learning_rate": rate, "seed": seed})


def _training(rate: float, seed: int, evaluation: Evaluation) -> Training:
    metrics = {} if evaluation.error else _finite(evaluation.metrics)
    return Training(learning_rate=rate, seed=seed, validation=metrics, error=evaluation.error)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(v) for name, v in metrics.items() if name != "epoch" and math.isfinite(v)}


def _latencies(bench: Bench, model: nn.Module | Hybrid, merged: nn.Module | None) -> Costs:
    """Before and after merging, and of the backbone with its head alone."""
    reporter, bare = bench.reporter, bench.reporter.backbone.model
    models = {"latency_ms": model, "bare_latency_ms": bare}
    # A model that is its own merged form has one latency, and not two noisy ones.
    if merged is not None and merged is not model:
        models["merged_latency_ms"] = merged
    taken: Costs = {**measuring.latencies(reporter.backbone, bench.task.test, bench.task.pad_id, models)}
    return {"merged_latency_ms": taken["latency_ms"] if merged is model else None, **taken}
