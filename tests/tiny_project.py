"""A model folder and data files so small that a whole search takes seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_task import WORDS, save_model

from autopeft.engine import speed
from autopeft.engine.setup import Setup
from autopeft.experiment import Experiment
from autopeft.launch import launch
from autopeft.progress import Progress, Silent
from autopeft.result import SearchResult

#: A sentence is of the class whose word it holds; the other words are noise.
_CLASSES, _NOISE = WORDS[:3], WORDS[3:]


def make_data(folder: Path, train: int = 96, other: int = 24, seed: int = 0) -> dict[str, str]:
    """`train`, `validation` and `test` as JSON lines; returns the paths by split."""
    rng = random.Random(seed)
    paths = {}
    for split, count in (("train", train), ("validation", other), ("test", other)):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(_row(rng, i)) + "\n" for i in range(count)))
        paths[split] = str(path)
    return paths


def _row(rng: random.Random, i: int) -> dict[str, str]:
    label = _CLASSES[i % len(_CLASSES)]
    words = [*rng.choices(_NOISE, k=rng.randint(2, 8)), label]
    rng.shuffle(words)
    return {"text": " ".join(words), "label": label}


def experiment(folder: Path, **changes: Any) -> dict[str, Any]:
    """Fields of an experiment on the tiny model and data in `folder` (made when they are not there)."""
    if not (folder / "model").is_dir():
        save_model(folder / "model")
        make_data(folder)
    fields = {
        "name": "tiny",
        "model": str(folder / "model"),
        "task": {
            "name": "files",
            "text": "text",
            **{s: str(folder / f"{s}.jsonl") for s in ("train", "validation", "test")},
        },
        "space": "hybrid",
        "budget": {"trainable_params": "10%"},
        "sampler": {"name": "tpe", "seed": 0, "startup": 3},
        "training": {"epochs": 1, "batch_size": 16, "max_length": 16, "precision": "fp32"},
        "trials": 4,
        "runner": {"name": "in_process", "cpus": 1},
        "tracking": {"name": "none"},
        # What a search does beside its sampler is what some tests are about; they ask for it.
        "controls": "none",
        "descent": "none",
        "confirm": "none",
        **changes,
    }
    # A probe takes longer than a tiny training, and has tests of its own.
    fields["training"] = {"head": "drawn", "method_rates": "shared", **fields["training"]}
    return fields


def write_experiment(folder: Path, **changes: Any) -> Path:
    """The same as a YAML file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(experiment(folder, **changes)))
    return path


def search(
    folder: Path, out: Path, fields: Mapping[str, Any], progress: Progress | None = None, **changes: Any
) -> SearchResult:
    """Search the experiment of these fields, in this process."""
    return launch(Experiment.of(experiment(folder, **{**fields, **changes}), "test"), out, progress or Silent())


@contextmanager
def not_measured() -> Iterator[None]:
    """One set-up for all searches: measured on a busy machine, two may choose otherwise, and round otherwise."""
    setup = Setup(device="cpu", precision="fp32", attention="fused", pack=4, flops_per_second=1e9, seconds_per_step=0.0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(speed, "measure", lambda *args, **kwargs: setup)
        yield
