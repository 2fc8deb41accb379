"""Fronts over seeds: a search with everything against the sampler alone and against controls alone, on several tasks.

    python experiments/benchmarks/front_in_truth.py --runs /some/folder --tasks trec,subj

Each search is confirmed: members of its front and the best controls are trained again with other seeds. What is
compared is the mean test score of what the validation means prefer within a share of the backbone's parameters. The
searches stay in `--runs`: a benchmark that was ended goes on there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import _trec
import optuna
import typer
from _harness import RESULTS, Out, Quick, show, write

import autopeft
from autopeft.candidate import Evaluation
from autopeft.dimensions import Continuous
from autopeft.models import find_model
from autopeft.result import SearchResult
from autopeft.searching.confirming.values import Spread
from autopeft.searching.front import ParetoFront
from autopeft.searching.widening import drawn_from
from autopeft.space import SearchSpace

MODEL, SPACE, BUDGET = "minilm", "hybrid", "1%"
BACKBONE = 22_713_216
#: Shares of the backbone at which fronts are read.
SHARES = (0.0002, 0.0005, 0.002, 0.01)
#: What is searched with; trials in multiples of `--trials`.
KINDS: dict[str, dict[str, Any]] = {
    "sampler": {"trials": 2.5, "controls": "none", "descent": "none"},
    "controls": {"trials": 1.0, "controls": {"names": "default", "share": 1.0}, "descent": "none"},
    # Small ones alone, of which the spread over the whole budget has few.
    "small": {"trials": 0.75, "controls": {"names": "default", "share": 1.0}, "descent": "none", "budget": "0.05%"},
    "descent": {"trials": 1.0, "controls": {"names": "default", "share": 0.35}, "descent": {"share": 0.5}},
    # Scales, biases and norms beside adapters and low rank; what people use of these is a control too.
    "wide": {
        "trials": 1.0,
        "space": "hybrid_wide",
        "controls": {"names": ["head_only", "bitfit", "ia3", "lora", "pfeiffer"], "share": 0.35},
        "descent": {"share": 0.5},
    },
}
# Each of the wide space's methods at its usual multiple of one rate.
KINDS["usual"] = {**KINDS["wide"], "training": {"method_rates": "usual"}}
KINDS["rates"] = {**KINDS["descent"], "training": {"method_rates": "usual"}}


def search(task: str, kind: str, seed: int, asked: Mapping[str, Any], runs: Path) -> dict[str, Any]:
    """The figures of a finished search: run, resumed, or opened where it has ended already."""
    own = dict(KINDS[kind])
    trials = max(1, round(own.pop("trials") * asked["trials"]))
    training = {"epochs": asked["epochs"], "batch_size": asked["batch"], "max_length": 64, "head": asked["head"]}
    training["method_rates"] = "shared"
    out, started, budget = runs / f"{task}-{kind}-{seed}", time.time(), own.pop("budget", BUDGET)
    space = own.pop("space", SPACE)
    training |= own.pop("training", {})
    result = autopeft.search(
        out=out,
        name=out.name,
        model=MODEL,
        task=_trec.task(task, train_limit=asked["train"], validation_limit=asked["validation"], metric="accuracy"),
        space=space,
        budget={"trainable_params": budget},
        sampler={"name": "known_cost", "seed": seed},
        training={**training, "seed": seed},
        trials=trials,
        confirm={"seeds": asked["seeds"], "time": asked["time"]},
        runner={"name": "ray", "workers": 2, "cpus_per_worker": 1},
        tracking={"name": "mlflow", "uri": f"sqlite:///{runs.absolute()}/mlflow.db"},
        **own,
    )
    wall = time.time() - started
    return {**figures(result.front, result.evaluations), "at_bound": at_bound(result), "wall": wall}


def figures(front: ParetoFront, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """What is compared of one search."""
    members = [point(front, e) for e in front.points if e.number in front.verdict.confirmed]
    names, known = front.verdict.names, front.verdict.confirmed
    controls = [point(front, e) for e in front.done if e.key in names and e.number in known]
    return {
        "members": members,
        "controls": controls,
        "optimism": front.verdict.optimism,
        "gains": [gain.words for gain in front.verdict.gains],
        "seconds": sum(e.seconds for e in evaluations),
        "trainings": len(evaluations),
    }


def at_bound(result: SearchResult) -> int:
    """Members of the front in the last 2% below the largest learning rate that could be proposed, as ranges widen."""
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{result.run_dir}/study.db")
    space = drawn_from(SearchSpace.load(result.header["space"], find_model(MODEL).shape()), study)
    (high,) = (d.high for d in space.dimensions if d.name == "learning_rate" and isinstance(d, Continuous))
    rates = [e.candidate.training["learning_rate"] for e in result.front.points]
    return sum(0.98 * high <= rate <= high * (1 + 1e-9) for rate in rates)


def point(front: ParetoFront, evaluation: Evaluation) -> dict[str, Any]:
    """A candidate over its seeds."""
    confirmed = front.verdict.confirmed[evaluation.number]
    none = Spread(math.nan, math.nan)
    validation, test = (confirmed.scores.get(name, none) for name in ("accuracy", "test_accuracy"))
    return {
        "key": evaluation.key,
        "params": evaluation.metrics["trainable_params"],
        "born": evaluation.born,
        "control": front.verdict.names.get(evaluation.key),
        "rate": evaluation.candidate.training.get("learning_rate"),
        "seeds": confirmed.seeds,
        "searched": evaluation.metrics["accuracy"],
        "validation": validation.mean,
        "test": test.mean,
        "test_sd": test.sd,
    }


def within(points: Sequence[Mapping[str, Any]], share: float) -> Mapping[str, Any] | None:
    """The one that validation prefers within a share of the backbone."""
    found = [p for p in points if p["params"] <= share * BACKBONE and not math.isnan(p["test"])]
    return max(found, key=lambda p: p["validation"], default=None)


def best(found: Mapping[str, Mapping[str, Any]], share: float, alone: bool) -> Mapping[str, Any] | None:
    """The best within a share: of all that searches found, or of the controls `alone` of all of them."""
    kinds = ("members", "controls")
    points = [p for f in found.values() for kind in kinds for p in f[kind] if p["control"] is not None or not alone]
    return within(points, share)


def gain(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, float]:
    """Difference of two mean test scores, and its standard error by Welch."""
    error = math.sqrt(one["test_sd"] ** 2 / one["seeds"] + other["test_sd"] ** 2 / other["seeds"])
    return one["test"] - other["test"], error


def report(task: str, seed: int, found: Mapping[str, Mapping[str, Any]]) -> None:
    """A row a kind of search: test means within each share, and what it took."""

    def cell(one: Mapping[str, Any] | None) -> str:
        if one is None:
            return "-"
        return f"{one['test']:.4f} ±{one['test_sd']:.4f} ({one['seeds']}) at {one['params']:,.0f}"

    rows = []
    for kind, f in found.items():
        optimism = "-" if f["optimism"] is None else f"{100 * f['optimism']:.2f}"
        cells = [cell(best({kind: f}, share, False)) for share in SHARES]
        rows.append((kind, *cells, f"{f['seconds']:.0f}", f"{f['wall']:.0f}", optimism, f["at_bound"]))
    columns = ("search", *(f"{share:.2%}" for share in SHARES), "training s", "wall s", "optimism", "at bound")
    show(f"{task}, seed {seed}: test accuracy, mean ± sd (seeds) at parameters", columns, rows)
    if "descent" in found:
        for share in SHARES:
            one, other = best({"descent": found["descent"]}, share, False), best(found, share, True)
            if one and other:
                difference, error = gain(one, other)
                name = other["control"]
                print(f"  {share:.2%}: {100 * difference:+.2f} points (standard error {100 * error:.2f}) over {name}")
    for kind, f in found.items():
        for words in f["gains"]:
            print(f"  {kind}: {words}")


def main(
    runs: Annotated[Path, typer.Option(help="Folder of the searches.")],
    tasks: Annotated[str, typer.Option(help="Comma between them.")] = "trec,subj,cr,mrpc,sst2",
    kinds: Annotated[str, typer.Option(help="Comma between them.")] = ",".join(KINDS),
    trials: Annotated[int, typer.Option(min=2, help="Of the descent; the others have multiples.")] = 40,
    first_seed: Annotated[int, typer.Option(min=0, help="Of the first search.")] = 0,
    searches: Annotated[int, typer.Option(min=1, help="Of each kind, with seeds of their own.")] = 1,
    seeds: Annotated[int, typer.Option(min=2, help="Of the confirmation.")] = 3,
    train: Annotated[int, typer.Option(min=8, help="Examples to train on.")] = 1500,
    validation: Annotated[int, typer.Option(min=8, help="Examples to select on.")] = 500,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=1)] = 32,
    head: Annotated[str, typer.Option(help="drawn or probe.")] = "probe",
    confirm_time: Annotated[float, typer.Option(help="Of the search's seconds of training, at most.")] = 1.0,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Fronts over seeds, by how they came about."""
    if quick:
        trials, seeds, train, validation, epochs, batch = 6, 2, 32, 16, 1, 8
    asked = {"trials": trials, "seeds": seeds, "epochs": epochs, "batch": batch, "head": head, "time": confirm_time}
    asked |= {"train": train, "validation": validation}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for seed in range(first_seed, first_seed + searches):
        for task in tasks.split(","):
            known = found.setdefault(f"{task}-{seed}", {})
            for kind in kinds.split(","):
                known[kind] = search(task, kind, seed, asked, runs)
            report(task, seed, known)
    write("front_in_truth", {**asked, "quick": quick}, found, out)


if __name__ == "__main__":
    typer.run(main)
