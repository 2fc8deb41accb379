"""Measure an exported adapter through Hugging Face PEFT alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import measure
from autopeft.errors import AutopeftError
from autopeft.models import find_model
from autopeft.tasks import task_from


def test_metrics(record: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """`test_<metric>` of the adapter in `folder`, for the model, task and settings that `hybrid.json` names."""
    from peft import PeftModel

    import autopeft.peft_tuner  # noqa: F401 - registers the PEFT type

    settings = TrainingSettings.model_validate(record["settings"])
    data = task_from(record["task"]).load()
    if data.fingerprint != record["data"]:
        warnings.warn("the task's data are not those that the adapter was trained and measured on", stacklevel=2)
    source = find_model(record["model"]["name"], record["trust_remote_code"])
    task = TokenizedTask.of(data, source.tokenizer(), settings.max_length, source.limits())
    base = source.model(data.num_labels, data.is_regression, torch.float32, task.pad_id)
    try:
        model = PeftModel.from_pretrained(base, str(folder)).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise AutopeftError(f"{folder}: the adapter cannot be loaded ({str(error).splitlines()[0][:200]})") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measured = measure(model.to(device), task, task.test)
    return {f"test_{name}": value for name, value in measured.items()}
