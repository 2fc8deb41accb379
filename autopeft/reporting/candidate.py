"""One candidate whole, as plain data: for `autopeft show`, and for reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from autopeft.candidate import Evaluation
from autopeft.costs import COSTS, amount
from autopeft.grid import Grid
from autopeft.metrics import without_others
from autopeft.recipe import Recipe
from autopeft.reporting.searched import Searched
from autopeft.searching.confirming.plan import own_run
from autopeft.searching.confirming.records import runs_in
from autopeft.searching.front import ParetoFront
from autopeft.searching.picking import of_number
from autopeft.searching.tables import doubt, marks, role_of
from autopeft.wording import number, spaced


def chosen(front: ParetoFront, evaluations: Sequence[Evaluation], pick: str | int) -> Evaluation:
    """`best`, `knee`, a number, or what a key begins like: of all that was trained, stopped and failed ones too.

    Of several trainings of one key the one that an export takes, else the last. `AutopeftError` as of
    `ParetoFront.pick`.
    """
    if (found := of_number(pick, evaluations)) is not None:
        return found
    keys = {e.key for e in evaluations if pick and e.key.startswith(str(pick))}
    if len(keys) != 1:
        return front.pick(pick)
    return next(e for e in (*front.points, *reversed(front.done), *reversed(evaluations)) if e.key in keys)


def facts_of(run: Searched, evaluation: Evaluation) -> dict[str, Any]:
    """What it is, where it is from, its scores over seeds, its costs, its course, and how to export it."""
    e, front = evaluation, run.front
    confirmed, on = front.verdict.confirmed.get(e.number), {p.number for p in front.points}
    recipe, settings = run.recipe(e), run.experiment.training
    grid = Grid.of(e.candidate.hybrid.layers, e.candidate.hybrid.model)
    return {
        "key": e.key,
        "number": e.number,
        "status": e.status,
        "error": e.error,
        "on_front": e.number in on,
        "equal_to": None if (equal := front.equal_to(e)) is None else equal.number,
        "pick": marks(front).get(e.number),
        "doubt": doubt(front, e),
        "p_front": None if confirmed is None else confirmed.p_front,
        "role": role_of(front, e),
        "born": e.born,
        "parent": None if e.origin is None else e.origin.parent,
        "recipe": [] if recipe is None else list(_steps(recipe)),
        "same_key": [other.number for other in run.evaluations if other.key == e.key and other is not e],
        "words": e.words,
        "grid": {"columns": list(grid.headers), "rows": grid.lines},
        "hybrid": e.candidate.hybrid.to_json(),
        "training": dict(e.candidate.training),
        "seed": e.seed,
        "epochs": e.fidelity,
        "of_epochs": e.epochs or settings.epochs,
        "seconds": e.seconds,
        "scores": _scores(run, e),
        "costs": _costs(run, e),
        "curve": [{name: _finite(value) for name, value in epoch.items()} for epoch in e.curve],
        "runs": _runs(run, e),
        "weights_kept": (run.run / "weights" / f"{settings.weights_name(e.job)}.safetensors").is_file(),
        "commands": list(_commands(run, e)),
    }


def score_rows(facts: Mapping[str, Any]) -> Iterator[list[str]]:
    """Scores of `facts_of`, each with what is known of it over seeds."""
    for name, known in facts["scores"].items():
        yield [
            spaced(name),
            number(known.get("searched")),
            number(known.get("mean")),
            "" if known.get("sd") is None else f"{known['sd']:.4f}",
            number(known.get("seeds")),
        ]


def course_of(facts: Mapping[str, Any], name: str) -> str:
    """Values of a metric after each epoch."""
    return ", ".join(number(epoch.get(name)) or "?" for epoch in facts["curve"])


def _finite(value: float) -> float | None:
    """JSON has no other numbers."""
    return value if isfinite(value) else None


def _scores(run: Searched, e: Evaluation) -> dict[str, dict[str, Any]]:
    """By metric: as searched, and the mean and standard deviation over so many seeds."""
    known = run.front.verdict.confirmed.get(e.number)
    names = [n for n in without_others(e.metrics) if n not in COSTS.names()]
    names += [n for n in (known.scores if known else ()) if n not in names]
    first = run.front.score.metric
    found = {}
    for name in sorted(names, key=lambda n: (n.removeprefix("test_") != first, n.startswith("test_"))):
        spread = None if known is None else known.scores.get(name)
        own = {"searched": _finite(e.metrics[name])} if name in e.metrics else {}
        if spread is not None and known is not None:
            own |= {**spread.to_json(), "seeds": known.seeds}
        found[name] = own
    return found


def _costs(run: Searched, e: Evaluation) -> dict[str, dict[str, Any]]:
    """By cost: its value, what it counts, and the limit on it."""
    return {
        name: {"value": e.metrics[name], "unit": cls.unit, "limit": run.front.limits.get(name)}
        for name, cls in COSTS.all().items()
        if name in e.metrics
    }


def _runs(run: Searched, e: Evaluation) -> list[dict[str, Any]]:
    """Its trainings that were confirmed, the search's own first; none where there is no other."""
    fresh = runs_in(run.remembered).get(e.number, [])
    return [each.to_json() for each in (*own_run(e), *fresh)] if fresh else []


def _steps(recipe: Recipe) -> Iterator[str]:
    first = recipe.first
    yield f"train {first.train.describe()} for {_epochs(first.epochs)}{_rates(first.training)}"
    for cut, healing in recipe.cuts:
        yield f"cut to {amount(cut.cost, cut.limit)} {spaced(cut.cost)}: {cut.hybrid.describe()}"
        yield f"heal for {_epochs(healing.epochs)}{_rates(healing.training)}"


def _epochs(count: int) -> str:
    return f"{count} epoch" if count == 1 else f"{count} epochs"


def _rates(training: Mapping[str, float]) -> str:
    said = ", ".join(f"{spaced(name)} {value:.3g}" for name, value in training.items())
    return f" ({said})" if said else ""


def _commands(run: Searched, e: Evaluation) -> Iterator[str]:
    """How to take it home; only what was trained to its end can be."""
    if e.status == "done" and any(e is other for other in run.front.done):
        short = run.keys[e.key]
        trust = ["--trust-remote-code"] if run.experiment.trust_remote_code else []
        yield run.command("export", "--pick", short, "--to", f"out/{short}", *trust)
