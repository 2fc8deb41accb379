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
from autopeft.candidate import Candidate, Evaluation
from autopeft.comparing.memory import Peak
from autopeft.engine.backbone import Backbone
from autopeft.engine.data import TokenizedTask, Tokens, collate, examples_in, steps_of
from autopeft.engine.frozen import FrozenLayers
from autopeft.engine.load import wait_for
from autopeft.engine.settings import TokenSize, TrainingSettings
from autopeft.engine.train import evaluation_tokens
from autopeft.engine.worker import Worker, drain
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.models import ModelSource

#: Batches that an epoch is timed with, and rounds and seconds of timing a forward pass.
_BATCHES, _ROUNDS, _SECONDS = 30, 30, 5.0


def hybrid_memory(worker: Worker, candidate: Candidate) -> int:
    """Bytes of training one candidate alone on the longest batch: backbone, activations, gradients, optimiser.

    Frozen layers are computed, and not kept.
    """
    short = _short(worker.task, _longest(worker.task.train, worker.settings.batches))
    with Peak(worker.device) as peak:
        _trained(drain(_twin(worker, short, 0).run([candidate]))[0])
    return peak.bytes + size_of(worker.backbone.model)


def baseline_memory(
    baseline: Baseline, source: ModelSource, task: TokenizedTask, settings: TrainingSettings, device: torch.device
) -> int:
    """The same of a baseline: two epochs of that one batch."""
    short = _short(task, _longest(task.train, settings.batches))
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

    The second of two epochs, after caches are warm; of many examples some are taken.
    """
    task, settings = worker.task, worker.settings
    size = examples_in(task.train, settings.batches)
    some = np.random.default_rng(0).permutation(len(task.train))[: _BATCHES * size]
    short = _short(task, some)
    run = _twin(worker, short, worker.spec.cache).run([candidate])
    try:
        next(run)
        begin = time.perf_counter()
        next(run)
        seconds = time.perf_counter() - begin
    except StopIteration as end:
        _trained(end.value[0])
        raise AutopeftError("it ended before its second epoch") from None
    finally:
        run.close()
    return seconds * steps_of(task.train, settings, 1) / steps_of(short.train, settings, 1)


def _twin(worker: Worker, task: TokenizedTask, cache: int) -> Worker:
    """The same worker for two epochs of another task, whose weights nobody keeps."""
    twin = copy.copy(worker)
    twin.frozen = FrozenLayers(worker.backbone, task.pad_id, cache, evaluation_tokens(worker.device))
    twin.task, twin.spec = task, replace(worker.spec, keep=None)
    twin.settings = worker.settings.model_copy(update={"epochs": 2})
    return twin


def _trained(evaluation: Evaluation) -> None:
    if evaluation.error:
        raise AutopeftError(evaluation.error)


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
        wait_for(device)
        begin = time.perf_counter()
        call()
        wait_for(device)
        return time.perf_counter() - begin


def size_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, those that share memory counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _short(task: TokenizedTask, index: np.ndarray) -> TokenizedTask:
    """With the training examples at `index` alone, and one to validate on."""
    return replace(task, train=task.train.take(index), validation=task.validation.take(np.arange(1)))


def _longest(tokens: Tokens, size: int | TokenSize) -> np.ndarray:
    count = size if isinstance(size, int) else max(1, size.tokens // int(tokens.lengths.max()))
    longest: np.ndarray = np.argsort(tokens.lengths, kind="stable")[-count:]
    return longest
