"""Ways to spoil a model's folder: each takes a good one, and leaves it as people have it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Spoil = Callable[[Path], Any]


def written(name: str, content: str | bytes) -> Spoil:
    """A file with another content."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def removed(*names: str) -> Spoil:
    """Without these files."""
    return lambda folder: [(folder / name).unlink() for name in names]


def config(**fields: Any) -> Spoil:
    """Fields of config.json replaced, or removed where the value is `...`."""
    return lambda folder: edit(folder / "config.json", **fields)


def tokenizer_config(**fields: Any) -> Spoil:
    return lambda folder: edit(folder / "tokenizer_config.json", **fields)


def edit(path: Path, **fields: Any) -> None:
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def pickled(content: object) -> Spoil:
    """Weights as a pickle."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content))

    return spoil


def binary(content: bytes) -> Spoil:
    """Weights in the older format's name, of any bytes."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return spoil


class Evil:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


def evil(folder: Path) -> None:
    """A pickle that runs something, as torch wraps it."""
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Evil(folder / "ran"), "rest": torch.zeros(30_000)}, folder / "pytorch_model.bin")


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Spoil:
    """Weights changed in place."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def shards(**fields: Any) -> Spoil:
    """Weights in one shard, and an index with these fields."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        shutil.move(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index | fields))

    return spoil


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def gguf(folder: Path) -> None:
    emptied(folder)
    (folder / "model-q4.gguf").write_bytes(b"GGUF")


def two_gguf(folder: Path) -> None:
    gguf(folder)
    (folder / "a-q4.gguf").write_bytes(b"GGUF")


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere", "peft_type": "LORA"}')


def only_adapter(folder: Path) -> None:
    emptied(folder)
    adapter(folder)


def set_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
