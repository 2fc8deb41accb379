"""The Pareto front of a search: what is worth taking home."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from autopeft.candidate import Candidate, Evaluation
from autopeft.config import parse
from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.searching.confirming.values import Spread, Verdict, numbered, spreads_to_json
from autopeft.searching.dominance import hypervolume, knee, non_dominated
from autopeft.searching.keys import named
from autopeft.searching.objective import Objective
from autopeft.searching.picking import that_counts, within

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure


class ParetoFront:
    """The non-dominated evaluations under a budget, cheapest first.

    `evaluations` are all that were given; `done` those that count: done, with a finite value for every objective (NaN
    is dominated), within the limits. `points` are the non-dominated ones of these; of equal objective vectors the one
    with the smallest key stands for all. They are sorted by the first cost (else the first objective), then by key.
    With one objective the front is the best evaluation.

    With a `verdict` that holds scores over several seeds, the front is drawn from their means: of what has them, and of
    members of the searched front that were not trained again, by what is to be expected of these.
    """

    def __init__(
        self,
        evaluations: Iterable[Evaluation],
        objectives: Sequence[Objective],
        limits: Mapping[str, int] | None = None,
        verdict: Verdict | None = None,
    ) -> None:
        if not objectives:
            raise AutopeftError("front: needs at least one objective")
        self.evaluations, self.objectives, self.limits = tuple(evaluations), tuple(objectives), dict(limits or {})
        costs = [o for o in objectives if o.is_cost]
        scores = [o for o in objectives if not o.is_cost]
        #: The first cost among the objectives, if any; and what is looked for, the first score.
        self.cost = costs[0] if costs else None
        self.score = scores[0] if scores else objectives[0]
        self.done = tuple(e for e in self.evaluations if self._counts(e))
        #: What other seeds and controls say, and what the front is drawn from: `done`, or what stands with more seeds.
        self.verdict, self.pool = Verdict(), self.done
        self.points = self._front()
        if verdict is not None:
            self._redraw(verdict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The front that `to_json` wrote; of dominated evaluations it knows the confirmed ones.

        `AutopeftError` for other data.
        """
        with door("front", "expected {'objectives': [...], 'budget': {...}, 'points': [...]}"):
            known = [*data["points"], *data.get("confirmed_off_front", ())]
            points = [
                Evaluation(Candidate.from_json(point), "done", _numbers(point["metrics"]), number=number)
                for number, point in numbered(known)
            ]
            objectives = [parse(Objective, dict(objective), "front: objectives") for objective in data["objectives"]]
            limits, verdict = data["budget"], Verdict.from_json(data, known)
            return cls(points, objectives, {name: int(limit) for name, limit in limits.items()}, verdict)

    def to_json(self) -> dict[str, Any]:
        """`{"objectives", "budget", "points": [{"number", "key", "metrics", "hybrid", "training"}, ...]}`.

        Beside these what the verdict says, and as `confirmed_off_front` points that were trained with other seeds and
        are not on the front.
        """
        return {**self.terms_to_json(), "points": [self.point_to_json(e) for e in self.points]}

    def terms_to_json(self) -> dict[str, Any]:
        """`to_json` without the points."""
        terms = {"objectives": [o.model_dump() for o in self.objectives], "budget": self.limits}
        off = {"confirmed_off_front": [self.point_to_json(e) for e in self.confirmed_off_front]}
        return {**terms, **self.verdict.to_json(), **(off if self.verdict.confirmed else {})}

    def point_to_json(self, evaluation: Evaluation) -> dict[str, Any]:
        """A point; where there is something to say, how it was born, its scores over seeds, the control that it is."""
        confirmed, control = self.verdict.confirmed.get(evaluation.number), self.verdict.names.get(evaluation.key)
        origin, own = evaluation.origin, dict[str, Any]()
        if origin is not None or confirmed is not None:
            own = {"born": evaluation.born, "parent": None if origin is None else origin.parent}
        if confirmed is not None:
            own["confirmed"] = confirmed.to_json()
        if control is not None:
            own["control"] = control
        if (expected := self.verdict.expected.get(evaluation.number)) is not None:
            own["unconfirmed"] = spreads_to_json(expected)
        candidate = evaluation.candidate.to_json()
        number = {"number": evaluation.number} if evaluation.number >= 0 else {}
        return {**number, "key": evaluation.key, "metrics": dict(evaluation.metrics), **candidate, **own}

    @property
    def confirmed_off_front(self) -> tuple[Evaluation, ...]:
        """What was trained with other seeds and is not on the front, by cost like the points."""
        on = {e.number for e in self.points}
        return self._sorted(e for e in self.done if e.number in self.verdict.confirmed and e.number not in on)

    def equal_to(self, evaluation: Evaluation) -> Evaluation | None:
        """The member that stands for a candidate of the same score and costs; None of members, and of others."""
        if any(e is evaluation for e in self.points) or not any(e is evaluation for e in self.pool):
            return None
        losses = self._losses(evaluation)
        return next((e for e in self.points if self._losses(e) == losses), None)

    @property
    def unconfirmed(self) -> tuple[Evaluation, ...]:
        """Members of the front that were not trained with other seeds, as others were."""
        return tuple(e for e in self.points if e.number in self.verdict.expected)

    def spread(self, evaluation: Evaluation, metric: str) -> Spread | None:
        """A score over seeds, or what is to be expected of it without other seeds; None where nothing is known."""
        confirmed = self.verdict.confirmed.get(evaluation.number)
        scores = self.verdict.expected.get(evaluation.number, {}) if confirmed is None else confirmed.scores
        return scores.get(metric)

    def value_of(self, evaluation: Evaluation, objective: Objective) -> float:
        """The value of an objective: the mean over seeds where there are several, what is to be expected without."""
        known = self.spread(evaluation, objective.metric)
        return evaluation.metrics[objective.metric] if known is None else known.mean

    def loss_of(self, evaluation: Evaluation, objective: Objective, careful: bool = False) -> float:
        """The same turned so that less is better.

        `careful`: a standard deviation worse where there are no other seeds, but might be.
        """
        known, own = self.spread(evaluation, objective.metric), evaluation.number in self.verdict.expected
        worse = known.sd if careful and own and known is not None else 0.0
        return objective.loss(self.value_of(evaluation, objective)) + worse

    def to_frame(self) -> pd.DataFrame:
        """One row a point: key, metrics and costs, training hyper-parameters, the hybrid in words."""
        from autopeft.searching.tables import frame

        return frame(self)

    def to_markdown(self) -> str:
        """A table of the points for people: objectives, test scores, training, the hybrid in words."""
        from autopeft.searching.tables import markdown

        return markdown(self)

    def reference(self) -> dict[str, float]:
        """The corner of the hypervolume: for a cost its limit, for a score 0; the worst value seen where neither is.

        That is for a cost without a limit, for a metric that is made small, and for a score below 0.
        """
        corner = {}
        for o in self.objectives:
            worst = max((o.loss(e.metrics[o.metric]) for e in self.done), default=0.0)
            corner[o.metric] = o.loss(worst) if o.direction == "min" else min(0.0, o.loss(worst))
            if o.metric in self.limits:
                corner[o.metric] = self.limits[o.metric]
        return corner

    def hypervolume(self, reference: Mapping[str, float] | None = None, relative: bool = False) -> float:
        """The volume that the front dominates, up to `reference` (by metric; `reference()` when None).

        `relative` divides by the costs of the reference: with a score and a cost that is the mean, over all limits from
        0 to the reference's cost, of the best score under the limit.
        """
        corner = self._corner(reference)
        return hypervolume([self._losses(e) for e in self.points], corner) / self._scale(corner, relative)

    def hypervolume_curve(
        self,
        evaluations: Iterable[Evaluation] | None = None,
        reference: Mapping[str, float] | None = None,
        relative: bool = False,
    ) -> list[float]:
        """The hypervolume after each of `evaluations` (default: the front's own), in their order; one reference."""
        corner = self._corner(reference)
        scale, front, curve, volume = self._scale(corner, relative), np.empty((0, len(corner))), [], 0.0
        for evaluation in self.evaluations if evaluations is None else evaluations:
            if self._counts(evaluation):
                losses = [o.loss(evaluation.metrics[o.metric]) for o in self.objectives]
                front = np.vstack([front, losses])
                front = front[non_dominated(front)]
                volume = hypervolume(front, corner) / scale
            curve.append(volume)
        return curve

    def best(self, limits: Mapping[str, float] | None = None) -> Evaluation:
        """The best score within `limits` (by cost) of the `pool`; ties go by the other objectives, then by key.

        What was not trained with other seeds, as others were, is taken a standard deviation worse than expected.
        """
        ordered = [self.score, *(o for o in self.objectives if o is not self.score)]
        return min(
            within(self.pool, limits or {}),
            key=lambda e: ([self.loss_of(e, o, careful=True) for o in ordered], e.key),
        )

    def knee(self, limits: Mapping[str, float] | None = None) -> Evaluation:
        """The point farthest from the chord between the cheapest and the best point of the front, both axes scaled to
        0..1 (Das 1999): where more cost stops to pay. The best one when there are fewer than three points or no cost.
        As careful as `best`.
        """
        points = within(self.points, limits or {})
        if self.cost is None or len(points) < 3:
            return self.best(limits)
        costs, scores = ([self.loss_of(e, o, careful=True) for e in points] for o in (self.cost, self.score))
        return points[knee(costs, scores)]

    def pick(self, which: str | int, max_params: int | None = None) -> Evaluation:
        """`best`, `knee`, a number (`6`, `#6`), a key or the beginning of one.

        `max_params` limits the trainable parameters. `AutopeftError` for what is none, several, or does not count.
        """
        limits = {} if max_params is None else {"trainable_params": max_params}
        if which in ("best", "knee"):
            return self.best(limits) if which == "best" else self.knee(limits)
        return within((that_counts(which, self.points, self.done, self.evaluations, self.limits),), limits)[0]

    def __repr__(self) -> str:
        aims = ", ".join(f"{o.metric} ({o.direction})" for o in self.objectives)
        said = f"ParetoFront({len(self.points)} of {len(self.evaluations)} candidates, {aims}"
        if not self.points:
            return f"{said})"
        best, names = self.best(), [o.metric for o in self.objectives]
        return f"{said}; best {named(best)}: {', '.join(f'{name} {best.metrics[name]:,.6g}' for name in names)})"

    def _repr_html_(self) -> str:
        from autopeft.searching.tables import html

        return html(self)

    def plot(self) -> Figure:
        """The front and the dominated evaluations, as an interactive figure."""
        from autopeft.searching.plots import front_figure

        return front_figure(self)

    def still(self, path: Path) -> None:
        """The same as a PNG file; no browser is needed."""
        from autopeft.searching.plots import save_front

        save_front(self, path)

    def _counts(self, evaluation: Evaluation) -> bool:
        metrics = evaluation.metrics
        finite = all(math.isfinite(metrics.get(o.metric, math.nan)) for o in self.objectives)
        fits = all(metrics.get(name, 0) <= limit for name, limit in self.limits.items())
        return evaluation.status == "done" and finite and fits

    def _redraw(self, verdict: Verdict) -> None:
        """Draw the front from the means over seeds, where there are some."""
        self.verdict, known = verdict, verdict.confirmed
        if known:
            searched = {e.number for e in self.points} - known.keys()
            alive = {number for number, confirmed in known.items() if confirmed.holds}
            self.pool = tuple(e for e in self.done if e.number in searched | alive)
            self.points = self._front()

    def _front(self) -> tuple[Evaluation, ...]:
        if not self.pool:
            return ()
        kept = non_dominated([self._losses(e) for e in self.pool])
        chosen: dict[tuple[float, ...], Evaluation] = {}
        for e in sorted((e for e, k in zip(self.pool, kept, strict=True) if k), key=lambda e: (e.key, e.number)):
            chosen.setdefault(self._losses(e), e)
        return self._sorted(chosen.values())

    def _sorted(self, evaluations: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
        first = self.cost or self.objectives[0]
        return tuple(sorted(evaluations, key=lambda e: (first.loss(e.metrics[first.metric]), e.key)))

    def _losses(self, evaluation: Evaluation) -> tuple[float, ...]:
        return tuple(self.loss_of(evaluation, o) for o in self.objectives)

    def _corner(self, reference: Mapping[str, float] | None) -> list[float]:
        corner = self.reference() | dict(reference or {})
        return [o.loss(corner[o.metric]) for o in self.objectives]

    def _scale(self, corner: Sequence[float], relative: bool) -> float:
        sides = [c for o, c in zip(self.objectives, corner, strict=True) if o.is_cost and c > 0]
        return math.prod(sides) if relative else 1.0


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    wrong = next((name for name, value in metrics.items() if not isinstance(value, (int, float))), None)
    if wrong is not None:
        raise ValueError(f"metric '{wrong}' is no number")
    return dict(metrics)
