"""What several trainings of a candidate say of it, and of a search: values, with their JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Self

from autopeft.candidate import Evaluation, Status
from autopeft.costs import COSTS
from autopeft.metrics import without_others
from autopeft.wording import with_deviation


@dataclass(frozen=True)
class Run:
    """One training of a candidate: its validation scores, and `test_<metric>` where it was measured there."""

    seed: int
    status: Status
    metrics: Mapping[str, float]
    seconds: float = 0.0
    error: str | None = None

    @classmethod
    def of(cls, evaluation: Evaluation) -> Self:
        """What an evaluation holds of its training."""
        costs = set(COSTS.names())
        scores = {name: value for name, value in without_others(evaluation.metrics).items() if name not in costs}
        return cls(evaluation.seed, evaluation.status, scores, evaluation.seconds, evaluation.error)

    def to_json(self) -> dict[str, Any]:
        """Plain data, read back by `Run(**data)`."""
        return {
            "seed": self.seed,
            "status": self.status,
            "metrics": dict(self.metrics),
            "seconds": self.seconds,
            "error": self.error,
        }


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the latter is NaN of one seed."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of the values of at least one seed."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else math.nan)

    @property
    def words(self) -> str:
        """`0.812±0.004`; of one seed the mean alone."""
        return with_deviation(self.mean, self.sd)

    def to_json(self) -> dict[str, float | None]:
        """`{"mean", "sd"}`; the latter is None of one seed."""
        return {"mean": self.mean, "sd": None if math.isnan(self.sd) else self.sd}


def spreads_to_json(scores: Mapping[str, Spread]) -> dict[str, dict[str, float | None]]:
    """`{"<metric>": {"mean", "sd"}}`, without a number where it is none."""
    return {name: {"mean": s.mean, "sd": None if math.isnan(s.sd) else s.sd} for name, s in scores.items()}


def spreads_from(data: Mapping[str, Any]) -> dict[str, Spread]:
    """What `spreads_to_json` wrote, whatever else stands beside it."""
    return {
        name: Spread(float(value["mean"]), math.nan if value["sd"] is None else float(value["sd"]))
        for name, value in data.items()
        if isinstance(value, Mapping)
    }


@dataclass(frozen=True)
class Confirmed:
    """A candidate over `seeds` trainings that ended well, and `failed` ones: its scores by metric.

    `p_front` is the probability that it is on the true front (see `statistics.p_front`).
    """

    seeds: int
    scores: Mapping[str, Spread]
    p_front: float | None = None
    failed: int = 0

    @property
    def holds(self) -> bool:
        """Whether most of its trainings ended well."""
        return self.seeds > self.failed

    @classmethod
    def of(cls, runs: Iterable[Run], p_front: float | None = None) -> Self:
        """Of these trainings; a score counts where a training has it."""
        runs = list(runs)
        done = [run for run in runs if run.status == "done"]
        names = dict.fromkeys(name for run in done for name in run.metrics)
        scores = {name: Spread.of([run.metrics[name] for run in done if name in run.metrics]) for name in names}
        return cls(len(done), scores, p_front, len(runs) - len(done))

    def to_json(self) -> dict[str, Any]:
        """`{"seeds", "<metric>": {"mean", "sd"}, "test_<metric>": ..., "p_front"}`."""
        failed = {"failed": self.failed} if self.failed else {}
        spreads = {name: spread.to_json() for name, spread in self.scores.items()}
        return {"seeds": self.seeds, **failed, **spreads, "p_front": self.p_front}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote; `KeyError`, `TypeError` or `ValueError` for other data."""
        scores, p = spreads_from(data), data["p_front"]
        return cls(int(data["seeds"]), scores, None if p is None else float(p), int(data.get("failed", 0)))


@dataclass(frozen=True)
class ControlPoint:
    """A control with its costs and scores in the search, and over seeds where it was confirmed."""

    name: str
    metrics: Mapping[str, float]
    confirmed: Confirmed | None = None

    def to_json(self) -> dict[str, Any]:
        """`{"name", "metrics", "confirmed"}`."""
        own = {} if self.confirmed is None else {"confirmed": self.confirmed.to_json()}
        return {"name": self.name, "metrics": dict(self.metrics), **own}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        known = data.get("confirmed")
        return cls(str(data["name"]), dict(data["metrics"]), None if known is None else Confirmed.from_json(known))


@dataclass(frozen=True)
class Gain:
    """What the search gains over the best control at a cost, on test; above 0 is better, whatever the metric.

    `key` is the search's candidate there, `control` the control's name (None where no control is as cheap). `low` and
    `high` bound the 95% interval, and are None where fewer than two seeds allow none.
    """

    cost: float
    key: str
    control: str | None
    gain: float | None
    low: float | None
    high: float | None
    words: str

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return dict(vars(self))


def numbered(points: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Points of a front's file, each with its number; those without, as older ones have them, count from 0 on."""
    for i, point in enumerate(points):
        yield int(point.get("number", i)), point


@dataclass(frozen=True)
class Verdict:
    """What is known of a front beside its search: seeds, controls, gains.

    `confirmed` is by the number of an evaluation, `names` are those of controls by the key of a candidate. `optimism`
    is by how much the scores of the searched front were better than over all seeds. `finished`: whether the search has
    come to its end; None where its study does not say. `expected`, by number too: of members of the searched front that
    were not trained again while others were, what is to be expected of each score, and by how much one training
    deviates from that.
    """

    confirmed: Mapping[int, Confirmed] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    optimism: float | None = None
    controls: tuple[ControlPoint, ...] = ()
    gains: tuple[Gain, ...] = ()
    finished: bool | None = None
    expected: Mapping[int, Mapping[str, Spread]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """`{"finished", "optimism", "controls", "gains"}`, each where there is something to say."""
        terms: dict[str, Any] = {} if self.finished is None else {"finished": self.finished}
        if self.optimism is not None:
            terms["optimism"] = self.optimism
        if self.controls:
            terms["controls"] = [control.to_json() for control in self.controls]
        if self.gains:
            terms["gains"] = [gain.to_json() for gain in self.gains]
        return terms

    @classmethod
    def from_json(cls, data: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Self:
        """Of a front's file; `KeyError`, `TypeError`, `ValueError` for other data."""
        known = {number: Confirmed.from_json(p["confirmed"]) for number, p in numbered(points) if "confirmed" in p}
        optimism, finished = data.get("optimism"), data.get("finished")
        expected = {number: spreads_from(p["unconfirmed"]) for number, p in numbered(points) if "unconfirmed" in p}
        return cls(
            known,
            {str(p["key"]): str(p["control"]) for p in points if "control" in p},
            None if optimism is None else float(optimism),
            tuple(ControlPoint.from_json(control) for control in data.get("controls", ())),
            tuple(Gain(**gain) for gain in data.get("gains", ())),
            None if finished is None else finished is True,
            expected,
        )
