"""Wall time to a good front: the whole of autopeft against the fair script, on the space `lora_ranks` and TREC.

    python experiments/benchmarks/time_to_front.py

Both search by themselves, from an empty process on: autopeft with its defaults, the script with OptunaSearch (TPE). The
hypervolume is of validation scores of candidates that were trained to their end, as a share of that of all that any of
the runs has found. Round by round, with a seed each.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import _trec
import numpy as np
import typer
from _candidates import MOST_PARAMS, WIDTH
from _harness import RESULTS, Out, Quick, Rounds, run_script, show, summarise, write

from autopeft.searching.dominance import hypervolume, non_dominated

OURS, FAIR = "autopeft", "fair script (TPE)"
SHARES = (0.8, 0.9, 0.95)
#: LoRA of rank 1 on q and v of one layer.
LEAST_PARAMS = 4 * WIDTH
#: (Seconds since the process was started, trainable parameters, score).
Trial = tuple[float, float, float]


def trials_of(script: str, data: Path, *arguments: object) -> dict[str, Any]:
    """The finished trials of a search, and what the process took."""
    start = time.time()
    run = run_script(script, *arguments, data=data)
    done = [t for t in run.trials if t.get("status", "done") == "done" and 0 < t["params"] <= MOST_PARAMS]
    trials: list[Trial] = sorted((t["ended"] - start, float(t["params"]), float(t["score"])) for t in done)
    return {"trials": trials, "wall": run.wall, "candidates": len(run.trials)}


def volume(points: Sequence[tuple[float, float]], floor: float, log: bool) -> float:
    """Hypervolume of (parameters, score): the score from `floor`, parameters up to the budget, in logarithms or not."""
    if not points:
        return 0.0
    params, scores = np.array(points, dtype=float).T
    span = math.log(MOST_PARAMS / LEAST_PARAMS)
    costs = np.log(params / LEAST_PARAMS) / span if log else params / MOST_PARAMS
    losses = np.stack([costs, -scores], axis=1)
    return hypervolume(losses[non_dominated(losses)], [1.0 + 1e-9, -floor])


def times(trials: Sequence[Trial], whole: float, floor: float, log: bool) -> list[float | None]:
    """Seconds to each of the shares of the whole volume; None where it was not reached."""
    points: list[tuple[float, float]] = []
    found: list[float | None] = [None] * len(SHARES)
    for ended, params, score in trials:
        points.append((params, score))
        share = volume(points, floor, log) / whole
        found = [ended if t is None and share >= s else t for t, s in zip(found, SHARES, strict=True)]
    return found


def compare(rounds: Sequence[Mapping[str, Any]], floor: float) -> dict[str, Any]:
    """Times to the shares, by scale and contender, one a round."""
    everything = [(p, s) for pair in rounds for run in pair.values() for _, p, s in run["trials"]]
    return {
        scale: {
            name: [times(pair[name]["trials"], volume(everything, floor, log), floor, log) for pair in rounds]
            for name in (OURS, FAIR)
        }
        for scale, log in (("log", True), ("linear", False))
    }


def report(found: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]], walls: Sequence[float]) -> None:
    """Seconds, and how many times as many the script needs; where it did not get there, its whole search (`walls`)."""
    for scale, by_name in found.items():
        rows = []
        for i, share in enumerate(SHARES):
            ours, fair = ([run[i] for run in by_name[name]] for name in (OURS, FAIR))
            both = [b / a for a, b in zip(ours, fair, strict=True) if a and b]
            least = [wall / a for a, b, wall in zip(ours, fair, walls, strict=True) if a and not b]
            ratios = [*([str(summarise(both))] if both else []), *(f"over {x:.2f}" for x in least)]
            rows.append((f"{share:.0%}", _seconds(ours), _seconds(fair), "; ".join(ratios) or "-"))
        title = f"Seconds to a share of the best known hypervolume ({scale} cost): median (range)"
        show(title, ("share", OURS, FAIR, "ratio; over what, where the script never got there"), rows)


def _seconds(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    missed = len(values) - len(known)
    return (str(summarise(known)) if known else "-") + (f"; {missed} never" if missed else "")


def main(
    candidates: Annotated[int, typer.Option(min=2, help="Of autopeft's search.")] = 60,
    fair: Annotated[int, typer.Option(min=2, help="Of the script's search.")] = 60,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    per_class: Annotated[int, typer.Option(min=1, help="Examples of each of TREC's 6 classes in a split.")] = 80,
    workers: Annotated[int, typer.Option(min=1, help="Each has one core.")] = 2,
    rounds: Rounds = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="Of the first round.")] = 0,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Wall time of whole searches to a good front."""
    if quick:
        candidates, fair, epochs, per_class, rounds = 3, 3, 1, 4, 1
    pairs = []
    with tempfile.TemporaryDirectory(prefix="front-") as scratch:
        data = _trec.subset(Path(scratch) / "data", per_class)
        for seed in range(first_seed, first_seed + rounds):
            shared = ("--epochs", epochs, "--workers", workers, "--seed", seed)
            pairs.append(
                {
                    OURS: trials_of("autopeft_script", data, "--search", candidates, *shared),
                    FAIR: trials_of("fair_script", data, "--search", fair, *shared),
                }
            )
    # The score from which on something is learnt: a class in six.
    found = compare(pairs, floor=1 / 6)
    report(found, [pair[FAIR]["wall"] for pair in pairs])
    settings = {
        "first_seed": first_seed,
        "candidates": candidates,
        "fair": fair,
        "epochs": epochs,
        "per_class": per_class,
        "rounds": rounds,
    }
    write("time_to_front", settings | {"workers": workers, "quick": quick}, {"runs": pairs, "seconds": found}, out)


if __name__ == "__main__":
    typer.run(main)
