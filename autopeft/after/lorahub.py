"""A mixture of exported LoRAs for a few rows of a new task, found without gradients. Huang and others 2023 (LoRAHub).

Shapes: N exports, r the largest rank among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from autopeft.after._base import AfterTraining
from autopeft.engine.data import TokenizedTask
from autopeft.engine.train import predict
from autopeft.errors import AutopeftError
from autopeft.exporting._record import LORA_FORMATS, Record
from autopeft.exporting.evaluation import load_export
from autopeft.models import find_model
from autopeft.trust import trusted

if TYPE_CHECKING:
    from autopeft.engine.data import Batch

#: Weights of a mixture lie within these, as in the paper.
_BOUNDS = (-1.5, 1.5)


class LoRAHub(AfterTraining):
    """The record; `lorahub` does it."""

    name: ClassVar[str] = "lorahub"
    description: ClassVar[str] = "weights over exported LoRAs, found on a few rows without gradients (Huang 2023)"
    paper: ClassVar[str] = "Huang et al. 2023, equation 1"
    family: ClassVar[str] = "reparameterised"
    formula: ClassVar[str] = "N"
    function: ClassVar[str] = "autopeft.after.lorahub.lorahub"


@dataclass(frozen=True)
class Mixture:
    """A weight [N] for each export, the few rows' mean loss with them, and the adapter on its base model."""

    weights: tuple[float, ...]
    loss: float
    model: Any

    def save(self, folder: Path | str) -> None:
        """Write the mixture as a stock PEFT LoRA."""
        self.model.save_pretrained(str(folder), save_embedding_layers=False)


def lorahub(
    folders: Sequence[Path | str],
    task: TokenizedTask,
    trials: int = 40,
    penalty: float = 0.05,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Mixture:
    """Mix exported LoRAs of one base model, which have heads of the same size, for `task`.

    A mixture's A is sum_i w_i A_i, its B sum_i w_i B_i (equation 1; lower ranks are padded with zeros), and its head
    the same sum, so that a weight of one alone is that export. What is minimised over w in [-1.5, 1.5]^N is the mean
    loss on the training split of `task` (the few rows; no other split is read) plus `penalty` times the mean of |w|.
    Each export alone and their mean come first, then Optuna's Gaussian process proposes. Deterministic for a seed.

    `AutopeftError` for folders that are no exports of LoRA, of other base models, or with other heads.
    """
    states, model = _opened([Path(f) for f in folders], task, trust_remote_code)
    device = next(model.parameters()).device

    def loss_of_mixture(weights: Sequence[float]) -> float:
        set_mixture(model, states, weights)

        def forward(batch: Batch) -> torch.Tensor:
            return task.readout.read(model, batch.inputs, batch.labels)[None]

        outputs = torch.from_numpy(predict(forward, 1, device, task, task.train))
        return float(task.readout.loss(outputs, torch.from_numpy(task.train.labels.copy())))

    weights = lightest(loss_of_mixture, len(states), trials, penalty, seed)
    loss = loss_of_mixture(weights)
    return Mixture(weights, loss, model)


def lightest(
    loss: Callable[[Sequence[float]], float], count: int, trials: int, penalty: float, seed: int
) -> tuple[float, ...]:
    """The weights [N] with the least `loss` plus `penalty` times the mean of their sizes."""
    import optuna

    names = [f"w{i}" for i in range(count)]

    def objective(trial: optuna.Trial) -> float:
        weights = [trial.suggest_float(name, *_BOUNDS) for name in names]
        value = loss(weights) + penalty * float(np.abs(weights).mean())
        return value if np.isfinite(value) else 1e9

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.GPSampler(seed=seed, n_startup_trials=2 * count + 2))
        for start in [np.full(count, 1 / count), *np.eye(count)]:
            study.enqueue_trial(dict(zip(names, map(float, start), strict=True)))
        study.optimize(objective, n_trials=max(trials, count + 1))
    finally:
        optuna.logging.set_verbosity(verbosity)
    return tuple(float(study.best_params[name]) for name in names)


def set_mixture(model: Any, states: Sequence[Mapping[str, torch.Tensor]], weights: Sequence[float]) -> None:
    """Put the weighted sum of these state dictionaries on a PEFT model."""
    from peft import set_peft_model_state_dict

    mixed = {name: sum(w * s[name] for w, s in zip(weights, states, strict=True)) for name in states[0]}
    set_peft_model_state_dict(model, mixed)


def _opened(
    folders: Sequence[Path], task: TokenizedTask, trust_remote_code: bool
) -> tuple[list[dict[str, torch.Tensor]], Any]:
    """Each export's weights, padded to one rank and to all modules, and a model that takes them."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    from autopeft.peft_tuner import peft_model

    if len(folders) < 2:
        raise AutopeftError(f"lorahub: {len(folders)} folders; give the folders of two exports or more")
    found, configs = [], []
    first = Record.read(folders[0])
    named = find_model(first.model.name, trusted(first.trust_remote_code, trust_remote_code, str(folders[0])))
    source = replace(named, quantise=first.quantise)
    for folder in folders:
        record = Record.read(folder)
        _check(record, folder, first, folders[0], task)
        adapter = load_export(folder, record, source, task.pad_id)
        found.append({n: t.cpu() for n, t in get_peft_model_state_dict(adapter, save_embedding_layers=False).items()})
        configs.append(adapter.peft_config["default"])
        if configs[-1].use_dora:
            # Its magnitudes belong to one A and B.
            raise AutopeftError(f"{folder}: is DoRA, whose magnitudes cannot be added up; mix exports of LoRA alone")
    rank = max(config.r for config in configs)
    modules = sorted({name for config in configs for name in config.target_modules})
    config = LoraConfig(
        task_type=configs[0].task_type, inference_mode=True, r=rank, lora_alpha=rank, target_modules=modules,
        modules_to_save=sorted(configs[0].modules_to_save), fan_in_fan_out=configs[0].fan_in_fan_out,
    )  # fmt: skip
    base = source.model(first.kind, torch.float32, task.pad_id)
    model = peft_model(base, config).eval().requires_grad_(False)
    shapes = {n: t.shape for n, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    return [{name: _padded(state.get(name), shape) for name, shape in shapes.items()} for state in found], model


def _padded(tensor: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
    """The tensor in the corner of zeros."""
    whole = torch.zeros(shape)
    if tensor is not None:
        whole[tuple(slice(0, n) for n in tensor.shape)] = tensor
    return whole


def _check(record: Record, folder: Path, first: Record, other: Path, task: TokenizedTask) -> None:
    if record.written_as not in LORA_FORMATS:
        raise AutopeftError(f"{folder}: is no LoRA alone, and only LoRAs can be mixed; export a LoRA-only candidate")
    same_base = record.model.files == first.model.files if first.model.files else record.model.name == first.model.name
    if not same_base or record.quantise != first.quantise:
        raise AutopeftError(f"{folder}: its base model is not that of {other}; mix adapters of one base model")
    own, needed = record.kind, task.readout
    if own.outputs != needed.outputs:
        raise AutopeftError(
            f"{folder}: its head has {own.outputs} outputs, and the task needs {needed.outputs}; mix adapters of tasks "
            "with as many classes"
        )
    if own.name != needed.name:
        raise AutopeftError(
            f"{folder}: its outputs are for {own.called}, and the task has {needed.called}; mix adapters of such tasks"
        )
