"""Task arithmetic over linearised adapters. Ilharco and others 2023; Tang and others 2023 (L-LoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch

from autopeft.after._base import AfterTraining
from autopeft.baselines._kept import Kept, load_baseline
from autopeft.baselines.l_lora import Linearised
from autopeft.errors import AutopeftError
from autopeft.weight_names import part


class TaskArithmetic(AfterTraining):
    """The record; `task_arithmetic` does it."""

    name: ClassVar[str] = "task_arithmetic"
    description: ClassVar[str] = "a weighted sum of what linearised adapters of several tasks learned (Tang 2023)"
    paper: ClassVar[str] = "Ilharco et al. 2023; Tang et al. 2023"
    family: ClassVar[str] = "reparameterised"
    formula: ClassVar[str] = "as one L-LoRA"
    function: ClassVar[str] = "autopeft.after.task_arithmetic.task_arithmetic"


def task_arithmetic(folders: Sequence[Path | str], weights: Sequence[float], head: int = 0) -> Linearised:
    """w0 + sum_i weights_i d_i, with the d_i of linearised adapters that `save_baseline` wrote, of one w0.

    The head is that of `folders[head]`: call once a task for a model of each. A weight of one and others of zero give
    that adapter back. `AutopeftError` where the folders are not of L-LoRA, or began at different weights.
    """
    if len(folders) != len(weights) or not folders or not 0 <= head < len(folders):
        raise AutopeftError(f"task_arithmetic: {len(folders)} folders and {len(weights)} weights; give one for each")
    kept = [Kept.read(Path(folder)) for folder in folders]
    model = load_baseline(folders[head])
    if not isinstance(model, Linearised):
        raise AutopeftError(f"{folders[head]}: is no L-LoRA; only linearised adapters can be added up")
    start, changes = part(kept[head].tensors, "start."), [part(one.tensors, "change.") for one in kept]
    for folder, one, change in zip(folders, kept, changes, strict=True):
        if one.record.baseline != kept[head].record.baseline:
            raise AutopeftError(f"{folder}: is no L-LoRA; only linearised adapters can be added up")
        if wrong := _unlike(changes[head], change):
            raise AutopeftError(
                f"{folder}: '{wrong}' is missing, or of another shape than in {folders[head]}; give folders that "
                "`save_baseline` wrote, of one rank and of the same sites"
            )
        if not one.record.same_model(kept[head].record) or not _equal(start, part(one.tensors, "start.")):
            raise AutopeftError(
                f"{folder}: began at other weights than {folders[head]}; train both with the same model, rank, sites "
                "and start"
            )
    total = {n: sum(w * c[n] for w, c in zip(weights, changes, strict=True)) for n in changes[head]}
    model.set_changes({name: torch.as_tensor(tensor) for name, tensor in total.items()})
    return model


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    same = first.keys() == second.keys() and all(t.dtype == second[name].dtype for name, t in first.items())
    return same and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def _unlike(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> str | None:
    """The first tensor that only one of them has, or that has another shape in the other."""
    shapes, others = ({name: t.shape for name, t in one.items()} for one in (first, second))
    return next((f"change.{n}" for n in sorted(first | second) if shapes.get(n) != others.get(n)), None)
