"""Write a subset of a data set and the experiment that `autopeft compare` runs on it.

    python experiments/benchmarks/compare_subset.py trec OUT
    autopeft compare OUT/experiment.yaml --out OUT/compare

Rows are drawn once, by a seed, from the split of the same name.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import yaml
from _trec import rows

#: Rows of each split, tokens, epochs and batch size: what one method takes 3 to 20 core-seconds for, a training.
SIZES: dict[str, dict[str, int]] = {
    "trec": {"train": 480, "validation": 200, "test": 500, "max_length": 32, "epochs": 4, "batch_size": 16},
    "mrpc": {"train": 160, "validation": 160, "test": 300, "max_length": 64, "epochs": 2, "batch_size": 8},
}
COLUMNS: dict[str, Any] = {"trec": "text_a", "mrpc": ["text_a", "text_b"]}
METRICS = {"trec": "accuracy", "mrpc": "accuracy"}
#: What heads start from: paraphrases are too hard for a head that is drawn, in so few steps.
HEADS = {"trec": "drawn", "mrpc": "probe"}


def draw(found: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """So many rows, shuffled by the seed."""
    return random.Random(seed).sample(found, min(count, len(found)))


def write(name: str, out: Path, seed: int) -> Path:
    """The data files and `experiment.yaml`; the path of the latter."""
    out.mkdir(parents=True, exist_ok=True)
    sizes = SIZES[name]
    task: dict[str, Any] = {"name": "files", "text": COLUMNS[name], "label": "label"}
    for split in ("train", "validation", "test"):
        path = out / f"{split}.jsonl"
        chosen = draw(rows(split, name), sizes[split], seed)
        path.write_text("".join(json.dumps(row) + "\n" for row in chosen))
        task[split] = str(path)
    experiment = {
        "name": f"compare-{name}",
        "description": f"methods side by side: MiniLM on {sizes['train']} rows of {name}",
        "model": "minilm",
        "task": task,
        "space": "hybrid",
        "objectives": [METRICS[name], "trainable_params"],
        "training": {n: sizes[n] for n in ("epochs", "batch_size", "max_length")}
        | {"head": HEADS[name], "method_rates": "shared"},
        "trials": 10,
    }
    path = out / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return path


def main() -> None:
    """Write what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(SIZES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(write(given.name, given.out, given.seed))


if __name__ == "__main__":
    main()
