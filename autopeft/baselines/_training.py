"""One plain training loop for what is no pack: the engine's batches, loss, optimiser, schedule, clipping, precision.

Shapes: B examples in a batch, L tokens of the longest, C outputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from autopeft.doing import doing
from autopeft.engine.backbone import REPORTED, Backbone, choose_precision
from autopeft.engine.data import Batch, TokenizedTask, Tokens, training_batches
from autopeft.engine.frozen import FrozenLayers
from autopeft.engine.linear_probe import start_at_probe
from autopeft.engine.optimizer import BETAS, EPSILON, Rates
from autopeft.engine.pack import TOKEN_BUDGETS, parts_of
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import evaluation_tokens, measured, train_steps
from autopeft.engine.worker import CACHE, device
from autopeft.errors import AutopeftError
from autopeft.models import ModelSource
from autopeft.readouts import Readout

#: Outputs [B, C] (or [B, L, C], of tokens) of a batch of a split.
Forward = Callable[[Tokens, Batch], torch.Tensor]


@dataclass(frozen=True)
class Trained:
    """The validation metrics after each epoch, and the median seconds of training one."""

    curve: tuple[Mapping[str, float], ...]
    seconds_per_epoch: float


def own_backbone(source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Backbone:
    """A backbone in fp32 that nobody else has, frozen, its head as the engine has it at that seed."""
    with doing("loading the model"):
        backbone = Backbone(source, task.readout, REPORTED, device(), task.pad_id)
    if settings.head == "probe":
        frozen = FrozenLayers(backbone, task.pad_id, CACHE, evaluation_tokens(backbone.device))
        start_at_probe(backbone, task, settings, frozen)
    backbone.reset_head(settings.seed)
    return backbone


def train_model(
    model: nn.Module, task: TokenizedTask, settings: TrainingSettings, heads: Iterable[nn.Module] = ()
) -> Trained:
    """Train all parameters of a model that require a gradient; it takes a batch's inputs and gives `logits`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return train(forward_of(model, task.readout), parameters, task, settings, heads=heads)


def forward_of(model: Callable[..., Any], readout: Readout) -> Forward:
    """How `train` computes the outputs of a model that takes a batch's inputs."""
    return lambda tokens, batch: readout.read(model, batch.inputs, batch.labels)


def train(
    forward: Forward,
    parameters: Sequence[nn.Parameter],
    task: TokenizedTask,
    settings: TrainingSettings,
    before_step: Callable[[int, int], None] | None = None,
    heads: Iterable[nn.Module] = (),
) -> Trained:
    """Train `parameters` of what `forward` computes.

    `before_step` is called with the step's number and that of all steps when the gradients are there, not yet clipped.
    `heads` are the modules whose weights among them learn at the settings' `head_learning_rate`, where there is one.

    A step is that of the engine for one candidate: AdamW (Loshchilov and Hutter 2019) with decay on all parameters,
    warm-up and linear decay, the gradient clipped as a whole, batches over the token budget in parts. In bf16 the
    forward pass is autocast and the parameters stay fp32. `AutopeftError` when the loss is no number.
    """
    rates, steps, on = Rates.of(settings, {}), train_steps(settings, task), parameters[0].device
    optimizer, schedule = optimizer_of(parameters, heads, settings, steps)
    curve: list[Mapping[str, float]] = []
    seconds = []
    with doing("epochs of a training", settings.epochs, aside=True) as stage:
        for epoch in range(1, settings.epochs + 1):
            begin, total = time.perf_counter(), torch.zeros((), device=on)
            for batch in training_batches(task.train, settings.batches, task.pad_id, settings.seed, epoch):
                loss = _gradients(forward, batch.to(on), task, settings)
                if before_step:
                    before_step(schedule.last_epoch, steps)
                torch.nn.utils.clip_grad_norm_(parameters, rates.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                total += loss * batch.weight
            mean = float(total) / task.train.weight
            seconds.append(time.perf_counter() - begin)
            if not math.isfinite(mean):
                raise AutopeftError(f"the loss is {mean} in epoch {epoch}")
            curve.append({"epoch": epoch, "train_loss": mean, **_validation(forward, task, settings, on)})
            stage.step()
    return Trained(tuple(curve), median(seconds))


def optimizer_of(
    parameters: Sequence[nn.Parameter], heads: Iterable[nn.Module], settings: TrainingSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW and the schedule of its rates, as the engine has them; weights of `heads` learn at the head's rate."""
    rates = Rates.of(settings, {})
    optimizer = torch.optim.AdamW(
        _groups(parameters, heads, settings.head_learning_rate),
        rates.learning_rate,
        betas=BETAS,
        eps=EPSILON,
        weight_decay=rates.weight_decay,
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates.factor(step, steps))


def _groups(parameters: Sequence[nn.Parameter], heads: Iterable[nn.Module], rate: float | None) -> list[dict[str, Any]]:
    """The parameters as torch groups them: those of heads apart, where they have a learning rate of their own."""
    if rate is None:
        return [{"params": list(parameters)}]
    own = {p for head in heads for p in head.parameters()}
    apart = {"params": [p for p in parameters if p in own], "lr": rate}
    return [group for group in ({"params": [p for p in parameters if p not in own]}, apart) if group["params"]]


def _gradients(forward: Forward, batch: Batch, task: TokenizedTask, settings: TrainingSettings) -> torch.Tensor:
    """Add the gradients of a batch's mean loss, which is returned."""
    device = batch.labels.device
    total = torch.zeros((), device=device)
    for start, end in parts_of(batch, TOKEN_BUDGETS[device.type]):
        part = batch.part(start, end)
        with _precision(settings, device):
            outputs = forward(task.train, part)
        loss = task.readout.loss(outputs.float()[None], part.labels)[0] * (part.weight / batch.weight)
        loss.backward()
        total += loss.detach()
    return total


def _validation(
    forward: Forward, task: TokenizedTask, settings: TrainingSettings, device: torch.device
) -> dict[str, float]:
    def outputs(batch: Batch) -> torch.Tensor:
        with _precision(settings, device):
            return forward(task.validation, batch).float()[None]

    return measured(outputs, 1, device, task, task.validation)[0]


def _precision(settings: TrainingSettings, device: torch.device) -> AbstractContextManager[object]:
    if choose_precision(settings.precision, device).dtype is torch.bfloat16:
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
