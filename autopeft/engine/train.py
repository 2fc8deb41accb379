"""Train one candidate on an attached backbone, and measure it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from autopeft.engine.backbone import Backbone
from autopeft.engine.data import TokenizedTask, Tokens, evaluation_batches, steps_per_epoch, training_batches
from autopeft.engine.settings import TrainingSettings
from autopeft.tasks._metrics import score

#: Evaluation keeps no gradients, so its batches can be larger.
_EVALUATION_FACTOR = 4


class Diverged(Exception):
    """The loss is not a number any more."""


@dataclass(frozen=True)
class Rates:
    """What the candidate itself sets, over the experiment's settings."""

    learning_rate: float
    weight_decay: float
    warmup: float
    max_grad_norm: float

    @classmethod
    def of(cls, settings: TrainingSettings, chosen: Mapping[str, float]) -> Rates:
        """The settings with the candidate's own values in their place."""
        names = ("learning_rate", "weight_decay", "warmup", "max_grad_norm")
        return cls(**{name: float(chosen.get(name, getattr(settings, name))) for name in names})

    def factor(self, step: int, steps: int) -> float:
        """Share of the learning rate at `step` of `steps`: linear warm-up, then linear decay to zero."""
        rising = self.warmup * steps
        if step < rising:
            return (step + 1) / (rising + 1)
        return (steps - step) / max(1.0, steps - rising)


def train(
    backbone: Backbone,
    task: TokenizedTask,
    settings: TrainingSettings,
    rates: Rates,
) -> Iterator[dict[str, float]]:
    """Train what is trainable on `backbone.model`; yields loss and validation metrics after each epoch.

    Raises `Diverged` after an epoch with a loss that is not finite.
    """
    parameters = [p for p in backbone.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rates.learning_rate, weight_decay=rates.weight_decay, fused=True)
    steps = settings.epochs * steps_per_epoch(len(task.train), settings.batch_size)
    step = 0
    for epoch in range(1, settings.epochs + 1):
        total = torch.zeros((), device=backbone.device)
        for batch in training_batches(task.train, settings.batch_size, task.pad_id, settings.seed, epoch):
            batch = batch.to(backbone.device)
            for group in optimizer.param_groups:
                group["lr"] = rates.learning_rate * rates.factor(step, steps)
            loss = loss_of(backbone.model(**batch.inputs).logits, batch.labels, task.regression)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, rates.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += loss.detach() * len(batch.index)
            step += 1
        # One look an epoch: one a step would make the host wait for the device each time.
        train_loss = float(total) / len(task.train)
        if not math.isfinite(train_loss):
            raise Diverged(f"the loss is {train_loss} in epoch {epoch}")
        measured = measure(backbone.model, task, task.validation, settings)
        if not math.isfinite(measured["loss"]):
            raise Diverged(f"the validation loss is {measured['loss']} after epoch {epoch}")
        yield {"epoch": epoch, "train_loss": train_loss} | measured


def loss_of(logits: torch.Tensor, labels: torch.Tensor, regression: bool) -> torch.Tensor:
    """Cross entropy of logits [B, C], or mean squared error of predictions [B, 1], in fp32."""
    if regression:
        return functional.mse_loss(logits.float().squeeze(-1), labels)
    return functional.cross_entropy(logits.float(), labels)


def measure(model: nn.Module, task: TokenizedTask, tokens: Tokens, settings: TrainingSettings) -> dict[str, float]:
    """The task's metrics and the loss on one split."""
    outputs = predict(model, task, tokens, settings)
    labels = torch.from_numpy(tokens.labels.copy())
    loss = float(loss_of(torch.from_numpy(outputs), labels, task.regression))
    return {**score(task.metrics, tokens.labels, outputs), "loss": loss}


@torch.inference_mode()
def predict(model: nn.Module, task: TokenizedTask, tokens: Tokens, settings: TrainingSettings) -> np.ndarray:
    """Outputs [N, C] (fp32) in the order of the split."""
    device = next(model.parameters()).device
    outputs = np.zeros((len(tokens), task.num_labels), dtype=np.float32)
    for batch in evaluation_batches(tokens, _EVALUATION_FACTOR * settings.batch_size, task.pad_id):
        logits = model(**batch.to(device).inputs).logits
        outputs[batch.index] = logits.float().cpu().numpy()
    return outputs
