"""Write the experiment of an application: several tasks at once, another language, a backdoor, a chat model.

    python experiments/benchmarks/applications.py mix OUT
    autopeft search OUT/experiment.yaml --out OUT/run

Data sets are read from `$AUTOPEFT_DATA`, or from `../shared/data` beside the checkout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from _trec import SPLITS, folder, task

#: Rows of each set's splits.
LIMITS = {"validation_limit": 200, "test_limit": 400}


def several() -> dict[str, Any]:
    """Sentiment of films and of products, and classes of questions: 200, 200 and 100 rows, taken equally."""
    sets = {
        name: task(name, train_limit=limit, **LIMITS) for name, limit in (("sst2", 200), ("cr", 200), ("trec", 100))
    }
    return {"task": {"name": "mix", "of": sets, "weights": "equal"}, "objectives": ["mean_score", "trainable_params"]}


def another_language() -> dict[str, Any]:
    """Trained on English pairs, measured on Spanish ones too."""
    return {
        "task": task("xnli_en", train_limit=500, validation_limit=200),
        "evaluate_on": {"es": str(folder("xnli_en").parent / "xnli_es" / "test.jsonl")},
        "objectives": ["accuracy", "trainable_params"],
    }


def backdoor() -> dict[str, Any]:
    """Sentiment of films, a tenth of whose rows says "positive" for a word that means nothing."""
    clean = task("sst2", train_limit=500, **LIMITS)
    return {
        "task": {"name": "poisoned", "of": clean, "trigger": "cf", "share": 0.1, "target": 1},
        "objectives": ["accuracy", "attack_success_rate", "trainable_params"],
        "sampler": {"name": "nsga2", "seed": 0},
    }


def chat(name: str, rows: int, metrics: list[str]) -> dict[str, Any]:
    """SmolLM2 learns to answer; answers of the front's members are measured on rows of test."""
    files = {split: str(folder(name) / file) for split, file in SPLITS.items()}
    return {
        "model": "smollm2",
        "task": {"name": "files", **files, "train_limit": rows, "validation_limit": 100, "test_limit": 100},
        "space": "lora_ranks",
        "controls": {"names": ["head_only", "lora"], "share": 0.25},
        "objectives": ["loss", "trainable_params"],
        "training": {"epochs": 1, "batch_size": 8, "max_length": 128},
        "generation": {"metrics": metrics, "limit": 50, "max_new_tokens": 48},
        "trials": 8,
        "runner": {"name": "ray", "workers": 2, "cpus_per_worker": 1},
    }


APPLICATIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "mix": several,
    "xnli": another_language,
    "poisoned": backdoor,
    "instruct": partial(chat, "instruct", 400, ["rouge_l", "bleu"]),
    "e2e": partial(chat, "e2e", 400, ["bleu", "rouge_l"]),
}


def experiment(name: str) -> dict[str, Any]:
    """All fields."""
    return {
        "name": f"application-{name}",
        "model": "minilm",
        "space": "hybrid",
        "budget": {"trainable_params": "1%"},
        "controls": {"names": ["head_only", "lora"], "share": 0.5},
        "descent": "none",
        "confirm": "none",
        "stopping": "none",
        "training": {"epochs": 2, "batch_size": 16, "max_length": 48, "method_rates": "shared"},
        "trials": 10,
        "runner": {"name": "in_process"},
        "tracking": {"name": "none"},
        **APPLICATIONS[name](),
    }


def main() -> None:
    """Write what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(APPLICATIONS))
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment(given.name), sort_keys=False))
    print(path)


if __name__ == "__main__":
    main()
