"""Train a pack of candidates, and measure what they say.

Shapes: K candidates, N examples and T tokens of a split, C outputs.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from autopeft.engine.company import Company
from autopeft.engine.data import Batch, TokenizedTask, Tokens, evaluation_batches, steps_of, training_batches
from autopeft.engine.entrances import States
from autopeft.engine.frozen import FrozenLayers
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings

#: Tokens with padding in a batch that is only measured, over all candidates of a pack: on a CPU, what its caches hold.
_EVALUATION_TOKENS = {"cpu": 2_048, "cuda": 131_072}

#: Outputs [K, B, C] of a batch.
Forward = Callable[[Batch], torch.Tensor]


def train_steps(settings: TrainingSettings, task: TokenizedTask) -> int:
    """Steps of a whole training."""
    return sum(steps_of(task.train, settings, epoch) for epoch in range(1, settings.epochs + 1))


def phase_steps(settings: TrainingSettings, task: TokenizedTask, company: Company) -> list[int]:
    """Steps of each phase of a training; `AutopeftError` when it has fewer epochs than phases."""
    steps = iter([steps_of(task.train, settings, epoch) for epoch in range(1, settings.epochs + 1)])
    return [sum(itertools.islice(steps, epochs)) for epochs in company.epochs(settings.epochs)]


def prepare_pack(pack: Pack, task: TokenizedTask, frozen: FrozenLayers) -> None:
    """What the methods do before the first step; gradients are those of the first epoch's batches, then the next's."""
    settings, device = pack.settings, pack.backbone.device

    def batches() -> Iterator[tuple[Batch, States]]:
        for epoch in itertools.count(1):
            for batch in training_batches(task.train, settings.batches, task.pad_id, settings.seed, epoch):
                batch = batch.to(device)
                yield batch, frozen.states(task.train, batch, pack.starts)

    pack.prepare(batches, task.readout)


def train_epoch(pack: Pack, task: TokenizedTask, frozen: FrozenLayers, epoch: int) -> list[float]:
    """One pass over the training split; each candidate's mean loss."""
    settings, device = pack.settings, pack.backbone.device
    total = torch.zeros(len(pack.candidates), device=device)
    for batch in training_batches(task.train, settings.batches, task.pad_id, settings.seed, epoch):
        batch = batch.to(device)
        losses = pack.step(batch, frozen.states(task.train, batch, pack.starts), task.readout)
        total += losses * batch.weight
    # One look an epoch: one a step would make the host wait for the device each time.
    return [float(t) / task.train.weight for t in total.cpu()]


def measure_pack(pack: Pack, task: TokenizedTask, tokens: Tokens, frozen: FrozenLayers) -> list[dict[str, float]]:
    """The task's metrics and the loss of each candidate on one split."""

    def forward(batch: Batch) -> torch.Tensor:
        return pack.forward(batch, frozen.states(tokens, batch, pack.starts))

    pack.procedures.call("before_measure")
    most = pack.backbone.most_tokens
    return measured(forward, len(pack.candidates), pack.backbone.device, task, tokens, pack.longer, most)


def measure(model: nn.Module, task: TokenizedTask, tokens: Tokens) -> dict[str, float]:
    """The same of a model that is no pack's."""

    def forward(batch: Batch) -> torch.Tensor:
        return task.readout.read(model, batch.inputs, batch.labels)[None]

    most = task.readout.most_tokens(model)
    return measured(forward, 1, next(model.parameters()).device, task, tokens, most=most)[0]


def measured(
    forward: Forward,
    candidates: int,
    device: torch.device,
    task: TokenizedTask,
    tokens: Tokens,
    more: int = 0,
    most: int | None = None,
) -> list[dict[str, float]]:
    """The task's metrics and the loss of each of K candidates whose outputs on a split `forward` gives."""
    outputs = predict(forward, candidates, device, task, tokens, more, most)
    readout, labels = task.readout, tokens.labels
    losses = readout.loss(torch.from_numpy(outputs), torch.from_numpy(labels.copy()))
    return [
        {**readout.score(task.metrics, labels, own, tokens.offsets), "loss": float(loss)}
        for own, loss in zip(outputs, losses, strict=True)
    ]


@torch.inference_mode()
def predict(
    forward: Forward,
    candidates: int,
    device: torch.device,
    task: TokenizedTask,
    tokens: Tokens,
    more: int = 0,
    most: int | None = None,
) -> np.ndarray:
    """Outputs [K, N, C] (or [K, T, C], of tokens; fp32) in the order of the split.

    `more`: vectors of a sequence beside its text's. `most`: tokens that may go through at once, where there is a bound.
    """
    of_tokens = tokens.per_token and not task.readout.summed
    rows = len(tokens.labels) if of_tokens else len(tokens)
    outputs = torch.zeros(candidates, rows, task.readout.outputs, device=device)
    budget = min(evaluation_tokens(device), most or sys.maxsize) // candidates
    for batch in evaluation_batches(tokens, budget, task.pad_id, more):
        batch = batch.to(device)
        found = forward(batch)
        if of_tokens:
            outputs.index_copy_(1, batch.rows, found.flatten(1, 2).index_select(1, batch.places))
        else:
            outputs.index_copy_(1, torch.from_numpy(batch.index).to(device), found)
    return outputs.cpu().numpy()


def evaluation_tokens(device: torch.device) -> int:
    """Tokens in a batch that keeps no gradients, over all candidates."""
    return _EVALUATION_TOKENS.get(device.type, _EVALUATION_TOKENS["cpu"])


def epochs(pack: Pack, task: TokenizedTask, frozen: FrozenLayers) -> Iterator[list[dict[str, float]]]:
    """Train a pack; yields the epoch's number, losses and validation metrics of each candidate after each epoch.

    Between two epochs the caller may slice candidates out (`Pack.keep`). A phase ends with an epoch, after it has been
    measured.
    """
    prepare_pack(pack, task, frozen)
    ends = set(itertools.accumulate(pack.company.epochs(pack.settings.epochs)))
    for epoch in range(1, pack.settings.epochs + 1):
        if epoch - 1 in ends:
            pack.end_phase()
        losses = train_epoch(pack, task, frozen, epoch)
        scores = measure_pack(pack, task, task.validation, frozen)
        yield [{"epoch": epoch, "train_loss": loss} | metrics for loss, metrics in zip(losses, scores, strict=True)]
