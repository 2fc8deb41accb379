"""Thousands of files with something wrong in them: each is read, or refused in one line, and soon.

`AUTOPEFT_FUZZ` is the number of mutations of each kind of file; the slow test runs ten thousand in all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutations import JSON, VALUES, YAML, as_json, mutated, spoilt, written
from peft import PeftConfig
from pyarrow import parquet
from tiny_models import CONFIGS

import autopeft
from autopeft.anatomy import ModelShape, shape_from_config
from autopeft.attaching import Banks
from autopeft.candidate import Candidate
from autopeft.doors import read_json
from autopeft.engine.settings import TrainingSettings
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.following.opening import opened
from autopeft.hybrid import Hybrid
from autopeft.peft_tuner import HybridConfig
from autopeft.recipe import Recipe
from autopeft.searching.front import ParetoFront
from autopeft.space import SearchSpace
from autopeft.tasks import task_from

EXAMPLES = int(os.environ.get("AUTOPEFT_FUZZ", "20"))
MANY = EXAMPLES > 100
fuzz = settings(
    max_examples=EXAMPLES,
    derandomize=not MANY,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
#: What became of the mutations: read, refused; and of PEFT's own errors, since it reads an adapter's file first.
COUNTS: Counter[str] = Counter()
MOST_CHARACTERS, MOST_SECONDS = 600, 2.0


def outcome(read: Callable[[], Any]) -> None:
    """Either it is read or the complaint is one line; anything else is a failure, and so is work without an end."""
    # Of the processor, which does not depend on what else the machine does.
    before = time.process_time()
    try:
        read()
        COUNTS["read"] += 1
    except AutopeftError as error:
        message = str(error)
        COUNTS["refused"] += 1
        assert message.strip()
        assert message.isprintable()
        assert len(message) < MOST_CHARACTERS
    assert time.process_time() - before < MOST_SECONDS


@cache
def shape() -> ModelShape:
    return shape_from_config(CONFIGS["bert"]())


@cache
def folder() -> Path:
    import atexit
    import shutil
    import tempfile

    made = Path(tempfile.mkdtemp(prefix="autopeft-fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def put(name: str, content: str | bytes) -> Path:
    path = folder() / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


METHOD_JSON = [
    {"method": "lora", "rank": 4, "sites": ["q", "v"], "scale": 1.0},
    {"method": "sequential", "bottleneck": 4, "sites": ["down"], "activation": "relu"},
    {"method": "parallel", "bottleneck": 4, "sites": ["down"], "scale": 4.0, "activation": "gelu"},
    {"method": "prefix", "length": 2, "sites": ["attention"]},
]
HYBRID: dict[str, Any] = {"layers": [METHOD_JSON, [], METHOD_JSON[:2]]}
SPACE: dict[str, Any] = {
    "description": "all",
    "sizes": "per_layer",
    "blocks": {
        "lora": {"rank": [0, 4, 8], "sites": ["q", "v"], "scale": 1.0},
        "ffn": {"method": "lora", "rank": [0, 2, "d/8"], "sites": ["up"]},
        "parallel": {"bottleneck": [0, "d/4", "d"], "activation": "relu"},
        "prefix": {"length": [0, 4]},
    },
    "training": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "warmup": {"choices": [0.06, 0.1]}},
}
EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "description": "a search",
    "model": "minilm",
    "task": {"name": "files", "train": "train.jsonl", "text": ["a", "b"], "label": "label", "metric": "f1_macro"},
    "space": SPACE,
    "budget": {"trainable_params": "0.5%", "training_flops": 10**12},
    "objectives": ["accuracy", "trainable_params"],
    "sampler": {"name": "tpe", "seed": 0, "startup": 3},
    "stopping": {"name": "pareto", "confidence": 0.99, "rungs": [1, 2]},
    "training": {"epochs": 3, "batch_size": 16, "max_length": 64, "precision": "fp32", "learning_rate": 1e-3},
    "trials": 4,
    "time_limit": "2h",
    "runner": {"name": "ray", "workers": 1, "cpus_per_worker": 1, "cache": 0.5, "pack": 4},
    "tracking": {"name": "mlflow", "experiment": "e"},
}
FRONT: dict[str, Any] = {
    "objectives": [{"metric": "accuracy", "direction": "max"}, {"metric": "trainable_params", "direction": "min"}],
    "budget": {"trainable_params": 5000},
    "points": [
        {
            "key": "x",
            "metrics": {"accuracy": 0.5, "trainable_params": 100},
            "hybrid": HYBRID,
            "training": {"learning_rate": 1e-3},
        }
    ],
}
ADAPTER: dict[str, Any] = {
    "peft_type": "AUTOPEFT",
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "x",
    "inference_mode": True,
    "modules_to_save": ["classifier"],
    "hybrid": HYBRID,
    "seed": 0,
}
RECORD: dict[str, Any] = {
    "key": "x",
    "peft_type": "AUTOPEFT",
    "hybrid": HYBRID,
    "training": {"learning_rate": 1e-3},
    "seed": 0,
    "metrics": {},
    "model": {"name": "x", "location": "x", "sizes": {"layers": 3, "hidden": 32}},
    "num_labels": 2,
    "labels": ["a", "b"],
    "task": {"name": "files"},
    "splits": "",
    "data": "x",
    "settings": {"epochs": 3},
    "engine": {"device": "cpu", "precision": "fp32", "attention": "fused"},
    "recipe": [
        {"train": HYBRID, "training": {"learning_rate": 1e-3}, "epochs": 3, "seed": 0},
        {"cut": {"cost": "trainable_params", "limit": 900, "length": 64, "hybrid": HYBRID}},
        {"heal": {"training": {"learning_rate": 1e-3}, "epochs": 1}},
    ],
}
ROWS: list[dict[str, Any]] = [{"text": f"a text {i}", "b": "é", "label": "ab"[i % 2]} for i in range(24)]


# --- one step further with what was read ------------------------------------------------------------------------------


def load_experiment(path: Path) -> None:
    experiment = Experiment.load(path)
    again = Experiment.of(experiment.resolved(), "again")
    assert again.difference(experiment) is None
    assert again.trials == experiment.trials


def load_space(path: Path) -> None:
    space = SearchSpace.load(path, shape())
    point = space.random_point(np.random.default_rng(0))
    candidate = space.decode(point)
    assert space.decode(space.encode(candidate)) == candidate
    assert candidate.hybrid.num_params(shape()) >= 0


def load_hybrid(path: Path) -> None:
    hybrid = Hybrid.from_json(read_json(path))
    assert Hybrid.from_json(hybrid.to_json()) == hybrid
    assert hybrid.num_params(shape()) >= 0
    assert hybrid.describe()
    assert len(Candidate(hybrid).key) == 12


def load_recipe(path: Path) -> None:
    found = opened(path, TrainingSettings())
    recipe = found.recipe
    assert Recipe.from_json(recipe.to_json(), "again") == recipe
    assert recipe.fixed.hybrid == recipe.hybrid
    settings = found.training(TrainingSettings())
    assert settings.epochs == recipe.first.epochs
    assert found.setup_for(settings, torch.device("cpu")).pack == 1


def load_front(path: Path) -> None:
    front = ParetoFront.from_json(read_json(path))
    assert front.to_markdown()


def load_adapter(path: Path) -> None:
    """As `PeftModel.from_pretrained` does it: the configuration first, then the banks."""
    try:
        config = PeftConfig.from_pretrained(str(path.parent))
    except AutopeftError:
        raise
    except Exception as error:
        # A file that PEFT itself does not take; it must not be for an error of ours.
        if Path(autopeft.__file__).parent in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents:
            raise
        COUNTS["PEFT's own"] += 1
        return
    if isinstance(config, HybridConfig):
        hybrid = config.value()
        banks = Banks([hybrid], shape(), [config.seed])
        assert sum(p.numel() for p in banks.parameters()) == hybrid.num_params(shape())


def load_rows(path: Path) -> None:
    data = task_from({"name": "files", "train": str(path), "text": "text"}).load()
    assert len(data.train)
    assert data.fingerprint


# --- the mutations ----------------------------------------------------------------------------------------------------


@fuzz
@given(mutated(EXPERIMENT, YAML))
def test_an_experiment_with_something_wrong(data: Any) -> None:
    outcome(lambda: load_experiment(put("experiment.yaml", written(data))))


@fuzz
@given(spoilt(yaml.safe_dump(EXPERIMENT, sort_keys=False).encode()))
def test_an_experiment_of_spoilt_bytes(data: bytes) -> None:
    outcome(lambda: load_experiment(put("experiment.yaml", data)))


@fuzz
@given(mutated(SPACE, YAML))
def test_a_space_with_something_wrong(data: Any) -> None:
    outcome(lambda: load_space(put("space.yaml", written(data))))


@fuzz
@given(spoilt(yaml.safe_dump(SPACE, sort_keys=False).encode()))
def test_a_space_of_spoilt_bytes(data: bytes) -> None:
    outcome(lambda: load_space(put("space.yaml", data)))


@fuzz
@given(mutated(HYBRID, JSON))
def test_a_hybrid_with_something_wrong(data: Any) -> None:
    outcome(lambda: load_hybrid(put("hybrid.json", as_json(data))))


@fuzz
@given(spoilt(json.dumps(HYBRID).encode()))
def test_a_hybrid_of_spoilt_bytes(data: bytes) -> None:
    outcome(lambda: load_hybrid(put("hybrid.json", data)))


@fuzz
@given(mutated(RECORD, JSON))
def test_a_recipe_with_something_wrong(data: Any) -> None:
    outcome(lambda: load_recipe(put("hybrid.json", as_json(data))))


@fuzz
@given(mutated(FRONT, JSON))
def test_a_front_with_something_wrong(data: Any) -> None:
    outcome(lambda: load_front(put("front.json", as_json(data))))


@fuzz
@given(mutated(ADAPTER, JSON) | spoilt(json.dumps(ADAPTER).encode()))
def test_an_adapters_configuration_with_something_wrong(data: Any) -> None:
    content = data if isinstance(data, bytes) else as_json(data)
    outcome(lambda: load_adapter(put("adapter_config.json", content)))


def lines_of(rows: list[Any]) -> str:
    return "".join(as_json(row) + "\n" for row in rows)


def table_of(rows: list[Any], separator: str) -> str:
    def cell(value: Any) -> str:
        return value if isinstance(value, str) else as_json(value)

    head = rows[0] if rows and isinstance(rows[0], dict) else {"text": 0, "label": 0}
    cells = [[cell(k) for k in head], *([cell(v) for v in (r.values() if isinstance(r, dict) else [r])] for r in rows)]
    return "".join(separator.join(line) + "\n" for line in cells)


def parquet_of(rows: list[Any]) -> bytes:
    """What pyarrow has no type for stands as its text."""
    rows = [row if isinstance(row, dict) else {"text": row} for row in rows]
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name.encode("utf-8", "replace").decode()] = pyarrow.array(values)
        except (pyarrow.ArrowException, UnicodeError, OverflowError, TypeError):
            texts = [as_json(v).encode("utf-8", "replace").decode() for v in values]
            columns[name.encode("utf-8", "replace").decode()] = pyarrow.array(texts)
    sink = pyarrow.BufferOutputStream()
    try:
        parquet.write_table(pyarrow.table(columns), sink)
    except pyarrow.ArrowException:
        return parquet_of(
            [{k: str(row[k]) for k in list(row)[:2] if isinstance(k, str) and k.isascii()} for row in rows]
        )
    return bytes(sink.getvalue())


FORMATS: dict[str, Callable[[list[Any]], str | bytes]] = {
    "jsonl": lines_of,
    "csv": lambda rows: table_of(rows, ","),
    "tsv": lambda rows: table_of(rows, "\t"),
    "parquet": parquet_of,
}


@pytest.mark.parametrize("suffix", FORMATS)
@fuzz
@given(data=st.data())
def test_rows_with_something_wrong(suffix: str, data: st.DataObject) -> None:
    rows = data.draw(mutated(ROWS, VALUES if suffix == "parquet" else JSON))
    content = FORMATS[suffix](rows if isinstance(rows, list) else [rows])
    outcome(lambda: load_rows(put(f"train.{suffix}", content)))


@pytest.mark.parametrize("suffix", FORMATS)
@fuzz
@given(data=st.data())
def test_rows_of_spoilt_bytes(suffix: str, data: st.DataObject) -> None:
    valid = FORMATS[suffix](ROWS)
    content = data.draw(spoilt(valid if isinstance(valid, bytes) else valid.encode()))
    outcome(lambda: load_rows(put(f"train.{suffix}", content)))


# --- many of them -----------------------------------------------------------------------------------------------------

_MANY = """
import json, resource, sys
import pytest
sys.path.insert(0, {folder!r})
import test_fuzz
test_fuzz.shape()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
status = pytest.main([{file!r}, "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", "--tb=short", *sys.argv[1:]])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"status": int(status), "counts": sys.modules["test_fuzz"].COUNTS, "mb": (after - before) / 1024}}))
"""
_ALL, _KINDS = 10_000, 16


@pytest.mark.slow
def test_ten_thousand_mutations_are_read_or_refused() -> None:
    code = _MANY.format(folder=str(Path(__file__).parent), file=__file__)
    environment = os.environ | {"AUTOPEFT_FUZZ": str(-(-_ALL // _KINDS))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=3_000, check=False
    )
    last = done.stdout.strip().splitlines()[-1]
    found = json.loads(last) if last.startswith("{") else {"status": -1}
    assert found["status"] == 0, done.stdout[-4_000:] + done.stderr[-2_000:]
    assert sum(found["counts"].values()) >= _ALL
    assert min(found["counts"]["read"], found["counts"]["refused"]) > _ALL // 20
    assert found["mb"] < 1_000
