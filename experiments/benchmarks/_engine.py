"""What the benchmarks of the engine share: MiniLM on TREC, candidates, and packs of them trained for a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import _trec
from _candidates import MAX_LENGTH, MODEL

if TYPE_CHECKING:
    import torch

    from autopeft.candidate import Candidate
    from autopeft.engine.backbone import Backbone
    from autopeft.engine.data import Batch, TokenizedTask
    from autopeft.engine.settings import TrainingSettings


def trec(train_limit: int | None = None) -> TokenizedTask:
    from autopeft.engine.data import TokenizedTask
    from autopeft.models import find_model
    from autopeft.tasks import task_from

    data = task_from(_trec.task(train_limit=train_limit, metric="accuracy")).load()
    return TokenizedTask.of(data, find_model(MODEL).tokenizer(), MAX_LENGTH)


def backbone(task: TokenizedTask, precision: str, model: str = MODEL) -> Backbone:
    from autopeft.engine.backbone import Backbone, choose_precision
    from autopeft.engine.worker import device
    from autopeft.models import find_model

    where = device()
    chosen = choose_precision(precision, where)
    return Backbone(find_model(model), task.readout, chosen, where, task.pad_id)


def mixed(count: int) -> list[Candidate]:
    """Candidates of the space `hybrid` as a search starts with them, those that adapt the lowest layer too."""
    import numpy as np

    from autopeft.budget import Budget
    from autopeft.models import find_model
    from autopeft.space import SearchSpace

    shape = find_model(MODEL).shape()
    space = SearchSpace.load("hybrid", shape)
    budget = Budget.resolve({"trainable_params": "1%"}, shape, MAX_LENGTH)
    rng, found = np.random.default_rng(0), list["Candidate"]()
    while len(found) < count:
        part = budget.tightened(space, float(np.exp(rng.uniform(np.log(0.02), 0))))
        candidate = space.decode(part.repair(space, space.random_point(rng), rng)[0])
        if candidate.hybrid.first_adapted == 0:
            found.append(candidate)
    return found


def batches(task: TokenizedTask, size: int, count: int, device: torch.device) -> list[Batch]:
    """Training batches at equal distances of the sorted lengths, so that they are like the epoch's."""
    from autopeft.engine.data import training_batches

    epoch = [b for b in training_batches(task.train, size, task.pad_id, 0, 1) if len(b.index) == size]
    epoch.sort(key=lambda b: b.inputs["input_ids"].shape[1])
    return [epoch[(2 * i + 1) * len(epoch) // (2 * count)].to(device) for i in range(count)]


def train_packs(
    on: Backbone, candidates: Sequence[Candidate], size: int, steps: Sequence[Batch], settings: TrainingSettings
) -> None:
    """Train the candidates on these batches, in packs of `size`, one pack after another."""
    import torch

    from autopeft.engine.pack import Pack

    for start in range(0, len(candidates), size):
        with Pack(on, candidates[start : start + size], settings, steps=len(steps)) as pack:
            for batch in steps:
                pack.step(batch, {}, on.readout)
    if on.device.type == "cuda":
        torch.cuda.synchronize()
