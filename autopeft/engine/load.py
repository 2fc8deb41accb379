"""The device that is trained on: what its memory depends on beside model and hybrid, what is free, when it is done."""

from __future__ import annotations

import torch

from autopeft.anatomy import TrainingLoad
from autopeft.engine.backbone import choose_precision
from autopeft.engine.pack import TOKEN_BUDGETS
from autopeft.engine.settings import TrainingSettings
from autopeft.quantising import Kind, bytes_of
from autopeft.readouts._frozen_head import AT_ONCE

#: The width of a map that stands for all, where bytes of a number are asked for.
_WIDE = 1_024


def load_of(
    settings: TrainingSettings, quantise: Kind | None = None, kind: str | None = None, length: int | None = None
) -> TrainingLoad:
    """The load of these settings on a device of a kind: this machine's by default.

    `length`: tokens of an example, where that is not the settings' `max_length`.

    Where the precision is to be measured first it is counted as fp32 on a CPU, which is the most that it can be, and as
    what the device multiplies fast on a GPU.
    """
    kind = kind or ("cuda" if torch.cuda.is_available() else "cpu")
    asked = "fp32" if settings.precision == "auto" and kind == "cpu" else settings.precision
    wide = 4 if choose_precision(asked, torch.device(kind)).dtype is torch.float32 else 2
    length = length or settings.max_length
    sequences = settings.batch_size if settings.batch_tokens is None else max(1, settings.batch_tokens // length)
    return TrainingLoad(
        sequences,
        TOKEN_BUDGETS[kind],
        wide,
        bytes_of(quantise, _WIDE, _WIDE) / _WIDE**2 if quantise else wide,
        kind == "cpu" and wide == 2,
        settings.checkpoint,
        AT_ONCE[kind],
        TrainingLoad().holes if kind == "cpu" else 1.0,
    )


def memory_here() -> int:
    """Bytes of the device's memory that are free."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)


def wait_for(device: torch.device) -> None:
    """Until a device has done all that it was given: a clock is read then."""
    if device.type == "cuda":
        torch.cuda.synchronize()
