"""Trained weights in files, and trainings that begin at them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from autopeft.candidate import UNITS, Job
from autopeft.doors import door
from autopeft.engine.data import TokenizedTask
from autopeft.engine.frozen import FrozenLayers
from autopeft.engine.importance import make_canonical, unit_importance
from autopeft.engine.pack import Pack
from autopeft.errors import AutopeftError
from autopeft.weight_names import part
from autopeft.writing import replacing

_IMPORTANCE = "importance."
#: Batches that the importance of units is the mean over.
_BATCHES = 30


def begin_at_origins(pack: Pack, jobs: Sequence[Job], folder: Path | None) -> None:
    """Set the weights of those of a pack's jobs that do not begin at drawn ones; `AutopeftError` when they are gone."""
    for k, job in enumerate(jobs):
        if job.origin is None:
            continue
        weights = load_weights(folder, job.origin.start) if folder else None
        try:
            pack.load(k, weights or {})
        except (KeyError, RuntimeError):
            raise AutopeftError(
                f"the weights that it begins with ({job.origin.start}) are gone, or not its own"
            ) from None


def keep_units(
    pack: Pack, names: Sequence[str | None], task: TokenizedTask, frozen: FrozenLayers, folder: Path
) -> None:
    """Write what cutting needs of a trained pack's candidates, of those with a name, beside `<name>`'s weights.

    That is canonical weights, which are the pack's from then on, and how much each unit matters.
    """
    if not any(names):
        return
    make_canonical(pack)
    for k, (name, units) in enumerate(zip(names, unit_importance(pack, task, frozen, _BATCHES), strict=True)):
        if name:
            importance = {f"{_IMPORTANCE}{bank}": values for bank, values in units.items()}
            save_weights(folder, f"{name}{UNITS}", {**pack.weights(k), **importance})


def load_units(folder: Path, name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] | None:
    """What `keep_units` wrote of a training, (weights, importance by bank); None as for `load_weights`."""
    found = load_weights(folder, f"{name}{UNITS}")
    if found is None:
        return None
    return {n: t for n, t in found.items() if not n.startswith(_IMPORTANCE)}, part(found, _IMPORTANCE)


def not_kept(folder: Path) -> AutopeftError:
    """What to raise where weights that were just trained are not in a folder."""
    return AutopeftError(f"{folder}: weights cannot be kept there; is the disk full?")


def save_weights(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> None:
    """Write `<folder>/<name>.safetensors`, whole or not at all; a full disk loses the weights, not the evaluation."""
    with contextlib.suppress(OSError, SafetensorError):
        _write(folder, name, weights)


def save_start(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> None:
    """The same of weights that a training is to begin at; `AutopeftError` on a full disk: without them it fails."""
    with door(folder / f"{name}.safetensors", "cannot be written", "mend that, and give the same command again"):
        _write(folder, name, weights)


def _write(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.safetensors") as partial:
        # Not `save_file`, whose files nobody else may read, whatever the umask.
        partial.write_bytes(save(weights, {"digest": _digest(weights)}))


def load_weights(folder: Path, name: str) -> dict[str, torch.Tensor] | None:
    """What `save_weights` wrote; None when it is not there, not readable or not what was written."""
    try:
        with safe_open(folder / f"{name}.safetensors", "pt") as file:
            known = (file.metadata() or {}).get("digest")
            weights: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    # Those of version 0.1 have none.
    return weights if known in (None, _digest(weights)) else None


def _digest(weights: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(save(weights)).hexdigest()
