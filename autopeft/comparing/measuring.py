"""What a method costs on this machine: memory, seconds an epoch, latency. Nothing else may run meanwhile."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from autopeft.attaching import attach
from autopeft.baselines import Baseline
from autopeft.candidate import Candidate
from autopeft.comparing.memory import Peak
from autopeft.engine.backbone import Backbone
from autopeft.engine.data import Batch, TokenizedTask, Tokens, collate, training_groups
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import Worker
from autopeft.hybrid import Hybrid
from autopeft.models import ModelSource

#: Batches of an epoch that are timed, and rounds and seconds of timing a forward pass.
_BATCHES, _ROUNDS, _SECONDS = 30, 30, 5.0


def hybrid_memory(worker: Worker, candidate: Candidate) -> int:
    """Bytes of training one candidate alone on the longest batch: backbone, activations, gradients, optimiser.

    Frozen layers are computed, and not kept.
    """
    task, backbone = worker.task, worker.backbone
    batch = collate(task.train, _longest(task.train, worker.settings.batch_size), task.pad_id).to(backbone.device)
    with Peak(backbone.device) as peak, Pack(backbone, [candidate], worker.settings, steps=2) as pack:
        for _ in range(2):
            pack.step(batch, {}, task.regression)
    return peak.bytes + size_of(backbone.model)


def baseline_memory(
    baseline: Baseline, source: ModelSource, task: TokenizedTask, settings: TrainingSettings, device: torch.device
) -> int:
    """The same of a baseline: two epochs of that one batch."""
    train = _only(task.train, _longest(task.train, settings.batch_size))
    short = replace(task, train=train, validation=_only(task.validation, np.arange(1)))
    sizes: list[int] = []
    peak = Peak(device)

    def loading(*args: Any, **options: Any) -> Any:
        with peak.paused():
            model = source.model(*args, **options)
        sizes.append(size_of(model))
        return model

    watched = copy.copy(source)
    object.__setattr__(watched, "model", loading)
    with peak:
        baseline.fit(watched, short, settings.model_copy(update={"epochs": 2}))
    # On a GPU the model came there inside, and is counted.
    return peak.bytes + (sum(sizes) if device.type == "cpu" else 0)


def epoch_seconds(worker: Worker, candidate: Candidate) -> float:
    """Seconds of training one candidate alone for an epoch, with what frozen layers gave kept as in a search.

    Of a long epoch some batches are timed, spread over it.
    """
    task, settings, start = worker.task, worker.settings, candidate.hybrid.first_adapted
    start = start if worker.frozen.prepare((task.train,), [start]) else 0
    groups = training_groups(task.train, settings.batch_size, settings.seed, 1)
    timed = groups[:: -(-len(groups) // _BATCHES)]
    batches = [collate(task.train, group, task.pad_id) for group in timed]
    with Pack(worker.backbone, [candidate], settings, [start], len(batches) + 1) as pack:

        def step(batch: Batch) -> None:
            batch = batch.to(worker.device)
            pack.step(batch, worker.frozen.states(task.train, batch, [start]), task.regression)

        step(batches[0])
        _wait(worker.device)
        begin = time.perf_counter()
        for batch in batches:
            step(batch)
        _wait(worker.device)
        return (time.perf_counter() - begin) * len(groups) / len(timed)


def latencies(
    backbone: Backbone, tokens: Tokens, pad_id: int, models: Mapping[str, nn.Module | Hybrid]
) -> dict[str, float]:
    """Median milliseconds of one forward pass of one text of median length, by name; the models take turns.

    A hybrid is put on the backbone for its turn. All compute in fp32, as what is exported does.
    """
    middle = np.argsort(tokens.lengths, kind="stable")[[len(tokens) // 2]]
    inputs = collate(tokens, middle, pad_id).to(backbone.device).inputs
    taken: dict[str, list[float]] = {name: [] for name in models}
    begin = time.perf_counter()
    for done in range(_ROUNDS):
        for name, model in models.items():
            taken[name].append(_turn(backbone, model, inputs))
        if done >= 4 and time.perf_counter() - begin > _SECONDS:
            break
    # The first round warms up.
    return {name: 1e3 * median(seconds[1:]) for name, seconds in taken.items()}


def _turn(backbone: Backbone, model: nn.Module | Hybrid, inputs: Mapping[str, torch.Tensor]) -> float:
    if isinstance(model, Hybrid):
        with attach(backbone.model, model):
            backbone.model(**inputs)
            return _timed(lambda: backbone.model(**inputs), backbone.device)
    model(**inputs)
    return _timed(lambda: model(**inputs), backbone.device)


def _timed(call: Callable[[], object], device: torch.device) -> float:
    with torch.inference_mode():
        _wait(device)
        begin = time.perf_counter()
        call()
        _wait(device)
        return time.perf_counter() - begin


def size_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, those that share memory counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _longest(tokens: Tokens, size: int) -> np.ndarray:
    longest: np.ndarray = np.argsort(tokens.lengths, kind="stable")[-size:]
    return longest


def _only(tokens: Tokens, index: np.ndarray) -> Tokens:
    """The examples at `index` alone."""
    places = np.concatenate([np.arange(tokens.offsets[i], tokens.offsets[i + 1]) for i in index])
    offsets = np.concatenate([[0], np.cumsum(tokens.lengths[index])])
    types = None if tokens.types is None else tokens.types[places]
    return replace(tokens, ids=tokens.ids[places], types=types, offsets=offsets, labels=tokens.labels[index])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
