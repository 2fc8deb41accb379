"""autopeft on given candidates, in a process of its own, as the other contenders are.

Prints a line of JSON with the trials: ranks, learning rate, score, seconds.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import _trec
import typer
from _candidates import BUDGET, MAX_LENGTH, MODEL, SPACE, ranks_of

import autopeft


def fields(
    points: Path, trials: int, epochs: int, workers: int, folder: Path, changed: dict[str, Any]
) -> dict[str, Any]:
    """The experiment; `changed` replaces fields, and in mappings what they name."""
    known: dict[str, Any] = {
        "name": "benchmark",
        "model": MODEL,
        "task": _trec.task(),
        "space": SPACE,
        "budget": BUDGET,
        "objectives": ["accuracy", "trainable_params"],
        "sampler": {"name": "given", "file": str(points)},
        # The other scripts train every candidate to its end.
        "stopping": "none",
        "training": {"epochs": epochs, "batch_size": 32, "max_length": MAX_LENGTH, "precision": "auto"},
        "trials": trials,
        "runner": {"name": "ray", "workers": workers, "cpus_per_worker": 1},
        "tracking": {"name": "mlflow", "uri": f"sqlite:///{folder}/mlflow.db"},
    }
    for name, value in changed.items():
        known[name] = {**known[name], **value} if isinstance(value, dict) and name in known else value
    return known


def main(
    points: Annotated[Path, typer.Option(help="JSON list of points of the space.")],
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Each has one core.")] = 2,
    change: Annotated[str, typer.Option(help="JSON: fields of the experiment to change.")] = "{}",
) -> None:
    """Train the given candidates, with everything that a search writes."""
    trials = len(json.loads(points.read_text()))
    with tempfile.TemporaryDirectory(prefix="autopeft-benchmark-") as scratch:
        folder = Path(scratch)
        experiment = fields(points, trials, epochs, workers, folder, json.loads(change))
        result = autopeft.search(out=folder / "run", quiet=True, **experiment)
        rows = [
            json.loads(ranks_of(e.candidate).to_json())
            | {"score": e.metrics.get("accuracy"), "seconds": e.seconds, "status": e.status, "error": e.error}
            for e in result.evaluations
        ]
    print(json.dumps({"trials": rows}))


if __name__ == "__main__":
    typer.run(main)
