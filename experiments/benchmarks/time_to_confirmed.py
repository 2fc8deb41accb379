"""Wall time to the front in truth that a search of an older checkout, or the fair script's, ends with.

    git worktree add /some/folder/before COMMIT
    python experiments/benchmarks/time_to_confirmed.py --before /some/folder/before --runs /some/folder/runs

All search TREC by themselves, each from an empty process on. Fronts are those seen on validation; what counts of their
members is the mean test score over seeds: of ours by its own confirmation (what that has not trained again counts as
nothing), of the others by training their fronts again with as many seeds, which is not in their time. The hypervolume
is of log cost and test accuracy.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import _trec
import numpy as np
import typer
from _candidates import LoraRanks, space
from _harness import HERE, RESULTS, Out, Quick, run_script, show, write
from autopeft_script import ends
from front_in_truth import BUDGET, KINDS, MODEL, SPACE, figures

from autopeft.candidate import Candidate
from autopeft.dimensions import Ordinal
from autopeft.result import SearchResult
from autopeft.searching.dominance import hypervolume, non_dominated
from autopeft.space import SearchSpace

OURS, BEFORE, FAIR = "now", "before", "fair script"
#: One rank on q and v of one layer, and 1% of the backbone.
LEAST, MOST = 1_536, 227_132

#: (Seconds since the process was started, parameters, validation score, mean test score over seeds or none).
Trial = tuple[float, float, float, float | None]


def volume(points: Sequence[tuple[float, float]], floor: float) -> float:
    """Hypervolume of (parameters, score), parameters in logarithms; the score from `floor` on."""
    if not points:
        return 0.0
    params, scores = np.array(points, dtype=float).T
    costs = np.log(np.maximum(params, LEAST) / LEAST) / math.log(MOST / LEAST)
    losses = np.stack([costs, -scores], axis=1)
    return float(hypervolume(losses[non_dominated(losses)], [1.0 + 1e-9, -floor]))


def seen_front(trials: Sequence[Trial]) -> list[Trial]:
    """Those that validation shows as the front."""
    rows = np.array([(params, -score) for _, params, score, _ in trials], dtype=float)
    return [trial for trial, kept in zip(trials, non_dominated(rows), strict=True) if kept] if trials else []


def curve(trials: Sequence[Trial], floor: float) -> list[tuple[float, float]]:
    """(Seconds, hypervolume in truth of the front as seen until then) after each trial."""
    found = []
    for i, (ended, *_) in enumerate(trials):
        members = seen_front(trials[: i + 1])
        found.append((ended, volume([(p, test) for _, p, _, test in members if test is not None], floor)))
    return found


def reached(points: Sequence[tuple[float, float]], goal: float) -> float | None:
    """Seconds from which on the hypervolume is at least the goal."""
    return next((seconds for seconds, volume in points if volume >= goal), None)


def confirmed(members: Sequence[Candidate], seeds: int, asked: Mapping[str, Any]) -> dict[str, float]:
    """Mean test scores of candidates by key, over seeds, trained as an older checkout did: drawn heads, one rate."""
    from autopeft.candidate import Job
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.kept import load_weights
    from autopeft.engine.settings import TrainingSettings
    from autopeft.engine.worker import Worker, WorkerSpec, drain
    from autopeft.models import find_model
    from autopeft.tasks import task_from

    source, keep = find_model(MODEL), Path(asked["scratch"])
    task = TokenizedTask.of(task_from(_trec.task(metric="accuracy")).load(), source.tokenizer(), 64)
    settings = TrainingSettings(
        epochs=asked["epochs"], max_length=64, precision="bf16", head="drawn", method_rates="shared"
    )
    worker = Worker(WorkerSpec(source, settings, keep), task)
    scores: dict[str, list[float]] = {}
    for seed in range(seeds):
        jobs = [Job(candidate, seed) for candidate in members]
        for start in range(0, len(jobs), 8):
            for evaluation in drain(worker.run(jobs[start : start + 8])):
                if evaluation.status == "done":
                    weights = load_weights(keep, settings.weights_name(evaluation.job))
                    found = worker.test_metrics(evaluation.candidate, weights)
                    scores.setdefault(evaluation.key, []).append(found["test_accuracy"])
    return {key: statistics.fmean(found) for key, found in scores.items()}


def searched(run: Path, checkout: Path, experiment: Mapping[str, Any]) -> dict[str, Any]:
    """A search of a checkout, with the seconds at which its trials ended; it is not made again where it is there."""
    said = run / "clock.json"
    if not said.is_file():
        command = [sys.executable, str(HERE / "_one_search.py"), str(run), "--experiment", json.dumps(experiment)]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        said.write_text(output.strip().splitlines()[-1], encoding="utf-8")
    clock = json.loads(said.read_text(encoding="utf-8"))
    result, ended = SearchResult.open(run), ends(run)
    done = sorted((e for e in result.evaluations if e.status == "done"), key=lambda e: ended[e.number])
    seconds = [ended[e.number] - clock["began"] for e in done]
    return {"result": result, "done": done, "seconds": seconds, "wall": clock["ended"] - clock["began"]}


def trials_now(found: Mapping[str, Any]) -> list[Trial]:
    """Ours: what its own confirmation says."""
    known = found["result"].front.verdict.confirmed
    rows = []
    for seconds, e in zip(found["seconds"], found["done"], strict=True):
        one = known[e.number].scores.get("test_accuracy") if e.number in known else None
        test = None if one is None or math.isnan(one.mean) else one.mean
        rows.append((seconds, float(e.metrics["trainable_params"]), float(e.metrics["accuracy"]), test))
    return rows


def trials_before(found: Mapping[str, Any], seeds: int, asked: Mapping[str, Any]) -> list[Trial]:
    """An older search: the front that it ends with is trained again."""
    bare = [
        (seconds, float(e.metrics["trainable_params"]), float(e.metrics["accuracy"]), e.candidate)
        for seconds, e in zip(found["seconds"], found["done"], strict=True)
    ]
    return _with_tests(bare, seeds, asked)


def trials_script(run: Path, trials: int, seed: int, data: Path, seeds: int, asked: Mapping[str, Any]) -> list[Trial]:
    """The fair script's own search; its front is trained again by the engine."""
    said = run / "script.json"
    if not said.is_file():
        began = time.time()
        shared = ("--epochs", asked["epochs"], "--workers", 2, "--seed", seed)
        rows = list(run_script("fair_script", "--search", trials, *shared, data=data).trials)
        run.mkdir(parents=True, exist_ok=True)
        said.write_text(json.dumps({"began": began, "trials": rows}), encoding="utf-8")
    known = json.loads(said.read_text(encoding="utf-8"))
    kept = sorted((t for t in known["trials"] if 0 < t["params"] <= MOST), key=lambda t: t["ended"])
    box = space()
    bare = [
        (t["ended"] - known["began"], float(t["params"]), float(t["score"]), _as_ours(box, LoraRanks.of(t)))
        for t in kept
    ]
    return _with_tests(bare, seeds, asked)


def _as_ours(box: SearchSpace, ranks: LoraRanks) -> Candidate:
    """A trial of the script, as a candidate of ours."""
    point: dict[str, Any] = {"learning_rate": ranks.learning_rate}
    sizes = [d for d in box.dimensions if isinstance(d, Ordinal)]
    point |= {d.name: d.values.index(rank) for d, rank in zip(sizes, ranks.ranks, strict=True)}
    return box.decode(point)


def _with_tests(
    bare: Sequence[tuple[float, float, float, Candidate]], seeds: int, asked: Mapping[str, Any]
) -> list[Trial]:
    front = seen_front([(a, b, c, None) for a, b, c, _ in bare])
    tests = confirmed([one for a, b, c, one in bare if (a, b, c, None) in front], seeds, asked)
    return [(a, b, c, tests.get(one.key)) for a, b, c, one in bare]


def main(
    before: Annotated[Path, typer.Option(help="A checkout of the older commit.")],
    runs: Annotated[Path, typer.Option(help="Folder of the searches; those that are there are not made again.")],
    trials: Annotated[int, typer.Option(min=2, help="Of our search.")] = 40,
    others: Annotated[int, typer.Option(min=2, help="Of the older one's and the script's.")] = 100,
    seeds: Annotated[int, typer.Option(min=2)] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the searches.")] = 0,
    train: Annotated[int, typer.Option(min=8, help="Rows to train on.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    head: Annotated[str, typer.Option(help="Of our search: drawn or probe.")] = "probe",
    kind: Annotated[str, typer.Option(help="Ours, a kind of front_in_truth.py: descent, wide, usual.")] = "descent",
    confirm_time: Annotated[float, typer.Option(help="Of our search's seconds of training, at most.")] = 1.0,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Wall time to the confirmed front of an older checkout and of a script."""
    if quick:
        trials, others, seeds, train, epochs = 12, 4, 2, 60, 1
    data, scratch = rows_for_all(runs / "data", train), runs / "weights"
    os.environ["AUTOPEFT_DATA"] = str(data)
    scratch.mkdir(parents=True, exist_ok=True)
    asked, shared = {"epochs": epochs, "scratch": str(scratch)}, asked_for(runs, seed, epochs)
    own = {k: v for k, v in KINDS[kind].items() if k != "trials"}
    training = {**shared["training"], "head": head, "method_rates": "shared", **own.get("training", {})}
    own |= {"training": training, "confirm": {"seeds": seeds, "time": confirm_time}}
    now = searched(runs / f"now-{kind}-{trials}-{seed}", HERE.parents[1], {**shared, **own, "trials": trials})
    earlier = searched(runs / f"before-{seed}", before, {**shared, "trials": others})
    found = {
        OURS: trials_now(now),
        BEFORE: trials_before(earlier, seeds, asked),
        FAIR: trials_script(runs / f"script-{seed}", others, seed, data, seeds, asked),
    }
    floor = largest_class()
    curves = {name: curve(points, floor) for name, points in found.items()}
    walls = {OURS: now["wall"], BEFORE: earlier["wall"], FAIR: found[FAIR][-1][0]}
    report(curves, walls, f"TREC, {train} rows, {epochs} epochs, {seeds} seeds")
    settings = {"trials": trials, "others": others, "seeds": seeds, "seed": seed, "train": train, "epochs": epochs}
    results = {"trials": found, "curves": curves, "walls": walls, "now": figures(now["result"].front, now["done"])}
    write("time_to_confirmed", {**settings, "head": head, "kind": kind, "quick": quick}, results, out)


def asked_for(runs: Path, seed: int, epochs: int) -> dict[str, Any]:
    """What both checkouts search."""
    return {
        "name": "benchmark",
        "model": MODEL,
        "task": _trec.task(metric="accuracy"),
        "space": SPACE,
        "budget": {"trainable_params": BUDGET},
        "sampler": {"name": "known_cost", "seed": seed},
        "training": {"epochs": epochs, "batch_size": 32, "max_length": 64, "seed": seed},
        "runner": {"name": "ray", "workers": 2, "cpus_per_worker": 1},
        "tracking": {"name": "mlflow", "uri": f"sqlite:///{runs.absolute()}/mlflow.db"},
    }


def largest_class() -> float:
    """The share of the largest class of test: what is known without learning."""
    labels = [row["label"] for row in _trec.rows("test")]
    return max(map(labels.count, set(labels))) / len(labels)


def report(curves: Mapping[str, Sequence[tuple[float, float]]], walls: Mapping[str, float], title: str) -> None:
    """When ours reaches what each ends with, and how much earlier that is."""
    rows = []
    for name, points in curves.items():
        last, goal = points[-1]
        at = reached(curves[OURS], goal)
        ratio = "-" if at is None or name == OURS else f"{last / at:.2f}"
        when = "never" if at is None else f"{at:.0f}"
        rows.append((name, len(points), f"{last:.0f}", f"{walls[name]:.0f}", f"{goal:.4f}", when, ratio))
    columns = ("search", "trained", "last trial, s", "whole wall, s", "volume in truth", "ours there, s", "times less")
    show(title, columns, rows)


def rows_for_all(to: Path, train: int) -> Path:
    """TREC with its first so many rows to train on: the same files for all contenders."""
    if not (to / "trec").is_dir():
        (to / "trec").mkdir(parents=True)
        for split, file in _trec.SPLITS.items():
            kept = _trec.rows(split)[: train if split == "train" else None]
            lines = "".join(json.dumps(row) + "\n" for row in kept)
            (to / "trec" / file).write_text(lines, encoding="utf-8")
    return to


if __name__ == "__main__":
    typer.run(main)
