"""autopeft on given candidates, or searching, in a process of its own, as the other contenders are.

Prints a line of JSON with the trials: ranks, learning rate, score, parameters, status, seconds, and when they ended.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import _trec
import optuna
import typer
from _candidates import BUDGET, MAX_LENGTH, MODEL, SPACE, ranks_of

import autopeft


def fields(trials: int, epochs: int, workers: int, folder: Path, changed: dict[str, Any]) -> dict[str, Any]:
    """The experiment; `changed` replaces fields, and in mappings what they name."""
    known: dict[str, Any] = {
        "name": "benchmark",
        "model": MODEL,
        "task": _trec.task(),
        "space": SPACE,
        "budget": BUDGET,
        "objectives": ["accuracy", "trainable_params"],
        "training": {"epochs": epochs, "batch_size": 32, "max_length": MAX_LENGTH, "precision": "auto"},
        "trials": trials,
        # The others only sample.
        "controls": "none",
        "descent": "none",
        "confirm": "none",
        "runner": {"name": "ray", "workers": workers, "cpus_per_worker": 1},
        "tracking": {"name": "mlflow", "uri": f"sqlite:///{folder}/mlflow.db"},
    }
    for name, value in changed.items():
        known[name] = (
            {**known[name], **value} if isinstance(value, dict) and isinstance(known.get(name), dict) else value
        )
    return known


def main(
    points: Annotated[Path | None, typer.Option(help="JSON list of points of the space, to train to the end.")] = None,
    search: Annotated[int, typer.Option(help="Candidates of a search of its own, in place of points.")] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Each has one core.")] = 2,
    seed: int = 0,
    change: Annotated[str, typer.Option(help="JSON: fields of the experiment to change.")] = "{}",
) -> None:
    """Train the given candidates, or search with the defaults; with everything that a search writes."""
    changed: dict[str, Any] = json.loads(change)
    if points is not None:
        # The other scripts train every candidate to its end.
        changed = {"sampler": {"name": "given", "file": str(points)}, "stopping": "none"} | changed
        search = len(json.loads(points.read_text()))
    else:
        changed = {"sampler": {"name": "known_cost", "seed": seed}, "training": {"seed": seed}} | changed
    with tempfile.TemporaryDirectory(prefix="autopeft-benchmark-") as scratch:
        folder = Path(scratch)
        result = autopeft.search(out=folder / "run", quiet=True, **fields(search, epochs, workers, folder, changed))
        ended = ends(folder / "run")
        rows = [
            json.loads(ranks_of(e.candidate).to_json())
            | {"score": e.metrics.get("accuracy"), "params": e.metrics.get("trainable_params"), "status": e.status}
            | {"seconds": e.seconds, "error": e.error, "ended": ended.get(e.number)}
            for e in result.evaluations
        ]
    print(json.dumps({"trials": rows}))


def ends(run: Path) -> dict[int, float]:
    """When each trial was told, in seconds since the epoch."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{run / 'study.db'}")
    return {t.number: t.datetime_complete.timestamp() for t in study.trials if t.datetime_complete}


if __name__ == "__main__":
    typer.run(main)
