"""A model folder and data files so small that a whole search takes seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import VOCAB, classifier

#: A sentence is of the class whose word it holds; the other words are noise.
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_NOISE = [f"w{i}" for i in range(VOCAB - len(_SPECIAL) - 3)]
_CLASSES = ["red", "green", "blue"]


def make_model(folder: Path) -> Path:
    """A BERT with a word-level tokenizer, saved as `from_pretrained` reads it."""
    words = {word: i for i, word in enumerate([*_SPECIAL, *_CLASSES, *_NOISE])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    fast.save_pretrained(folder)
    classifier("bert", seed=3).base_model.save_pretrained(folder)
    return folder


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
        make_model(folder / "model")
        make_data(folder)
    return {
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
        "runner": {"name": "in_process", "threads": 1},
        "tracking": {"name": "none"},
        **changes,
    }


def write_experiment(folder: Path, **changes: Any) -> Path:
    """The same as a YAML file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(experiment(folder, **changes)))
    return path
