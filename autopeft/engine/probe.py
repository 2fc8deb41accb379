"""How long training takes here: a few steps, timed and thrown away."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from autopeft.candidate import Candidate
from autopeft.engine.data import TokenizedTask, Tokens
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import Rates, measure, train
from autopeft.engine.worker import Worker, WorkerSpec

_BATCHES = 6


def seconds_per_candidate(spec: WorkerSpec, task: TokenizedTask, candidate: Candidate) -> float:
    """Seconds that training and validating `candidate` would take on one worker, from a sample of the batches."""
    settings: TrainingSettings = spec.settings.model_copy(update={"epochs": 1})
    sample = min(len(task.train), _BATCHES * settings.batch_size)
    order = np.random.default_rng(0).permutation(len(task.train))[:sample]
    part = replace(task, train=_take(task.train, order), validation=_take(task.train, order[: settings.batch_size]))
    worker = Worker(replace(spec, keep=None), part)
    with worker.backbone.attach(candidate.hybrid, settings.seed):
        measure(worker.backbone.model, part, part.validation, settings)
        start = time.perf_counter()
        list(train(worker.backbone, part, settings, Rates.of(settings, candidate.training)))
        trained = time.perf_counter()
        measure(worker.backbone.model, part, part.train, settings)
        measured = time.perf_counter()
    step, look = (trained - start) / sample, (measured - trained) / sample
    return spec.settings.epochs * (step * len(task.train) + look * len(task.validation))


def _take(tokens: Tokens, index: np.ndarray) -> Tokens:
    spans = [np.arange(tokens.offsets[i], tokens.offsets[i + 1]) for i in index]
    flat = np.concatenate(spans)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in spans])])
    return Tokens(tokens.ids[flat], None if tokens.types is None else tokens.types[flat], offsets, tokens.labels[index])
