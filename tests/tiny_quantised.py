"""Tiny models wide enough for blocks of 64, and benches on them with the maps of their layers quantised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import CONFIGS, randomise
from tiny_packs import SETTINGS, Bench
from tiny_task import task, tokenizer
from transformers import AutoModel

from autopeft.attention import FUSED
from autopeft.engine.data import TokenizedTask
from autopeft.models import ModelSource, find_model
from autopeft.quantising import Kind

WIDE = {"hidden_size": 64, "intermediate_size": 128}
#: For a test's parameters: those that need bitsandbytes are skipped without it.
_NEEDS = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('bitsandbytes')", reason="no bitsandbytes")
KINDS = [pytest.param(kind, marks=() if kind == "int4" else _NEEDS) for kind in ("nf4", "int8", "int4")]


def save_wide(folder: Path, family: str = "bert") -> Path:
    """A tiny random base model of 64 and 128 wide maps, and the tokenizer."""
    options = {"n_embd": 64, "n_inner": 128} if family == "gpt2" else WIDE
    randomise(AutoModel.from_config(CONFIGS[family](**options)), 0).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def quantised(folder: Path, kind: Kind, family: str = "bert") -> ModelSource:
    """Where the tiny model in `folder` comes from, made when it is not there."""
    if not (folder / "config.json").exists():
        save_wide(folder, family)
    return replace(find_model(str(folder)), quantise=kind)


def wide_bench(folder: Path, kind: Kind, family: str = "bert") -> Bench:
    """A quantised tiny model, and a task of two dozen steps."""
    data = TokenizedTask.of(task(sizes=(48, 24, 24)), tokenizer(), 32)
    if family != "bert":
        splits = ("train", "validation", "test")
        data = replace(data, **{name: replace(getattr(data, name), types=None) for name in splits})
    return Bench.of(quantised(folder, kind, family), data, FUSED, SETTINGS)
