"""Experts of low rank with a gate for each task, trained on several tasks at once. Liu and others 2023 (MOELoRA).

Shapes: T tasks, E experts, r rank of all experts together, m and n outputs and inputs of a map.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from autopeft.after._base import AfterTraining
from autopeft.baselines._low_rank import WithLowRank
from autopeft.baselines._training import optimizer_of, own_backbone
from autopeft.candidate import Candidate
from autopeft.engine.backbone import Backbone
from autopeft.engine.data import TokenizedTask, collate, training_groups
from autopeft.engine.train import measure
from autopeft.errors import AutopeftError, shown, suggest
from autopeft.exporting import write_adapter
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA

if TYPE_CHECKING:
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource


class MOELoRA(AfterTraining):
    """The record; `moelora` does it."""

    name: ClassVar[str] = "moelora"
    description: ClassVar[str] = (
        "low-rank experts and a gate for each of several tasks; one stock LoRA a task (Liu 2023)"
    )
    paper: ClassVar[str] = "Liu et al. 2023 (When MOE meets LLMs), section 4"
    family: ClassVar[str] = "reparameterised"
    formula: ClassVar[str] = "r (m + n) a map, and T d_t + d_t E for the gate"
    function: ClassVar[str] = "autopeft.after.moelora.moelora"


class Gate(nn.Module):
    """softmax(W e_t): the share [E] of each expert for task t; e_t [d_t] is learned."""

    def __init__(self, tasks: int, experts: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.tasks = nn.Parameter(torch.randn(tasks, width, generator=generator))
        self.W = nn.Parameter(torch.randn(experts, width, generator=generator) * width**-0.5)

    def forward(self, task: int) -> torch.Tensor:
        """The experts' shares, which add up to one."""
        return (self.W @ self.tasks[task]).softmax(0)


class TaskExperts(nn.Module):
    """A frozen backbone with E experts a map, and a gate and a head for each task.

    W x + sum_e g_te B_e A_e x; the experts of a map are slices of one A [r, n] and one B [m, r].
    """

    def __init__(
        self, backbone: Backbone, tasks: Sequence[str], rank: int, experts: int, sites: Sequence[str], seed: int
    ) -> None:
        super().__init__()
        if experts < 1 or rank % experts:
            raise AutopeftError(
                f"moelora: {experts} experts cannot share a rank of {rank}; give a multiple of {experts}"
            )
        self.tasks, self.rank, self.sites = tuple(tasks), rank, tuple(sites)
        self._expert_rank = rank // experts
        self._backbone, self._task = backbone, 0
        self.low = WithLowRank(backbone.model, backbone.shape, rank, sites, seed, self._shares)
        self.gate = Gate(len(tasks), experts, 16, torch.Generator().manual_seed(seed)).to(backbone.device)
        self.heads = [copy.deepcopy(backbone.heads) for _ in tasks]

    def forward(self, task: str, **inputs: torch.Tensor) -> Any:
        """The model's output for a task, with its gate and head."""
        self._task = self._place(task)
        for name, head in self.heads[self._task].items():
            self._backbone.model.set_submodule(name, head)
        return self.low(**inputs)

    def trained(self) -> list[nn.Parameter]:
        """Experts, gate and heads."""
        heads = [p for own in self.heads for head in own.values() for p in head.parameters()]
        return [*self.low.maps.parameters(), *self.gate.parameters(), *heads]

    @torch.no_grad()
    def weights(self, task: str) -> dict[str, torch.Tensor]:
        """One task's LoRA, as a hybrid's weights: its gate's shares are multiplied into B."""
        at = self._place(task)
        shares = self.gate(at).repeat_interleave(self._expert_rank).cpu()
        found = {name: w * shares if name.endswith(".B") else w for name, w in self.low.weights().items()}
        for name, head in self.heads[at].items():
            found |= {f"head.{name}.{n}": p.detach().cpu().clone() for n, p in head.named_parameters()}
        return found

    def export(self, source: ModelSource, task: TokenizedTask, to: Path | str) -> None:
        """Write one task's adapter as a stock PEFT LoRA, which needs no gate."""
        hybrid = Hybrid.uniform(self._backbone.shape.layers, LoRA(self.rank, self.sites))
        write_adapter(source, Candidate(hybrid), self.weights(task.name), task.readout, Path(to), "lora")

    def _place(self, task: str) -> int:
        if task not in self.tasks:
            raise AutopeftError(f"moelora: it was not trained on task {shown(task)}; {suggest(task, self.tasks)}")
        return self.tasks.index(task)

    def _shares(self) -> torch.Tensor:
        shares: torch.Tensor = self.gate(self._task)
        return shares.repeat_interleave(self._expert_rank)


def moelora(
    source: ModelSource,
    tasks: Sequence[TokenizedTask],
    settings: TrainingSettings,
    rank: int = 8,
    experts: int = 4,
    sites: Sequence[str] = ("q", "v"),
) -> tuple[TaskExperts, dict[str, dict[str, float]]]:
    """Train experts on several tasks, a batch of one task at a time; the model, and each task's validation metrics.

    Batches of all tasks come in one shuffled order, so a task counts by its size. `AutopeftError` for a single task,
    for two of one name or of heads of other sizes, and for a rank that the experts cannot share.
    """
    if len({task.name for task in tasks}) < len(tasks) or len(tasks) < 2:
        raise AutopeftError("moelora: give two tasks or more, each with a name of its own")
    if len({(task.readout.name, task.readout.outputs) for task in tasks}) > 1:
        raise AutopeftError(
            "moelora: the tasks have heads of different sizes or kinds; give such as have as many classes"
        )
    backbone = own_backbone(source, tasks[0], settings)
    model = TaskExperts(backbone, [task.name for task in tasks], rank, experts, sites, settings.seed)
    parameters = model.trained()
    batches = [_batches(tasks, settings, epoch) for epoch in range(1, settings.epochs + 1)]
    steps = sum(map(len, batches))
    for parameter in parameters:
        parameter.requires_grad_(True)
    heads = [head for own in model.heads for head in own.values()]
    optimizer, schedule = optimizer_of(parameters, heads, settings, steps)
    for task, group in (pair for epoch in batches for pair in epoch):
        batch = collate(task.train, group, task.pad_id).to(backbone.device)
        outputs = task.readout.read(partial(model, task.name), batch.inputs, batch.labels)
        task.readout.loss(outputs[None], batch.labels)[0].backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.requires_grad_(False)
    return model, {task.name: measure(_OfTask(model, task.name), task, task.validation) for task in tasks}


class _OfTask(nn.Module):
    """The model for one of its tasks."""

    def __init__(self, model: TaskExperts, task: str) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, **inputs: torch.Tensor) -> Any:
        return self.model(self._task, **inputs)


def _batches(
    tasks: Sequence[TokenizedTask], settings: TrainingSettings, epoch: int
) -> list[tuple[TokenizedTask, np.ndarray]]:
    """The batches of an epoch of all tasks, in an order that depends on seed and epoch only."""
    found = [(t, g) for t in tasks for g in training_groups(t.train, settings.batches, settings.seed, epoch)]
    return [found[i] for i in np.random.default_rng((settings.seed, epoch)).permutation(len(found))]
