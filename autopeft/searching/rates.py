"""Learning rates of what a search trains before its sampler is asked: controls, and the large hybrid of a descent.

A hybrid's rates are the rungs of a ladder. Some are tried in any case, and further ones while the score still rises:
what a model wants may be far from what is usual.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from autopeft.candidate import LARGE, Candidate, Evaluation, Job, Origin
from autopeft.dimensions import Continuous, Ordinal
from autopeft.hybrid import Hybrid
from autopeft.searching.objective import Objective
from autopeft.space import SearchSpace

#: What a job is named by.
JobName = tuple[str, int | None, Origin | None]
#: Factors on the usual rate of what is trained, as small hybrids want higher ones and a control shall not lose by its
#: rate; on a rate that the space fixes; and parts of a list of rates.
_FACTORS, _AROUND, _PARTS = (0.5, 1.5, 4.5), (1 / math.sqrt(10), 1.0, math.sqrt(10)), (1 / 3, 2 / 3, 1.0)
#: Further ones below and above the first of these.
_LOWER, _HIGHER = (0.5 / 9, 0.5 / 3), (4.5 * 3, 4.5 * 9)
#: Where on the range of learning rates (0 to 1) the large hybrids are tried, and where else while the score rises.
LARGE_AT, _LARGE_LOWER, _LARGE_HIGHER = (0.35, 0.6, 0.85), (0.1,), (1.1, 1.35, 1.6)
#: A range around the training's own rate, where the space has none, and how far above the range healings may go: the
#: smaller a hybrid the higher the rate that it wants.
_WIDTH, _BEYOND = 5.0, 4.0
_RATE = "learning_rate"
#: The learning rate of a head that is trained alone: a linear map on frozen features moves slowly at adapters' rates.
HEAD_RATE = 3e-2


class Rates(NamedTuple):
    """Trainings of one hybrid by rising learning rate; so many from `first` on are the `usual` ones."""

    trainings: Sequence[Mapping[str, float]]
    first: int
    usual: int


def usual_rate(hybrid: Hybrid, relative: bool = False) -> float:
    """A learning rate to begin with: the geometric mean of those of its methods, a head's own where it has none.

    `relative`: where each method learns at its factor times that (`Method.relative_rate`).
    """
    methods = {m.name: m for m in hybrid.methods()}.values()
    rates = [m.usual_rate / (m.relative_rate() if relative else 1.0) for m in methods]
    return math.exp(fmean(map(math.log, rates))) if rates else HEAD_RATE


def rates_of(space: SearchSpace, rate: float, hybrid: Hybrid, relative: bool = False) -> Rates:
    """What a control is trained with: three learning rates around the usual one of its methods, the head alone one.

    They may lie outside of the space's range: a control shall be as good as it can be. Further ones are as far as a
    range may be widened. Where the space has a list of rates they are of it, and where it fixes the rate, or says
    nothing of it (then it is `rate`), around that, and there are no others. `relative` is as for `usual_rate`.
    """
    low = {d.name: 0 if isinstance(d, Ordinal) else d.low for d in space.dimensions}
    searched = {d.name for d in space.dimensions}
    fixed = {name: value for name, value in space.decode(low).training.items() if name not in searched}
    dimension = next((d for d in space.dimensions if d.name == _RATE), None)
    below, above = list[float](), list[float]()
    if dimension is None:
        rates = [fixed.get(_RATE, rate) * factor for factor in _AROUND]
    elif isinstance(dimension, Ordinal):
        rates = [float(dimension.values[round(part * (len(dimension.values) - 1))]) for part in _PARTS]
    else:
        usual = usual_rate(hybrid, relative)
        rates = [usual * factor for factor in _FACTORS]
        below, above = ([r for f in factors if _within(dimension, r := usual * f)] for factors in (_LOWER, _HIGHER))
    if hybrid.is_empty:
        # It begins at a linear probe, and ends near it at any of them.
        below, rates, above = [], rates[1:2] or rates, []
    rates = list(dict.fromkeys(rates))
    return Rates([{**fixed, _RATE: rate} for rate in (*below, *rates, *above)], len(below), len(rates))


def _within(dimension: Continuous, rate: float) -> bool:
    """Whether a range may be widened as far as that."""
    return dimension.bounds is not None and dimension.bounds[0] <= rate <= dimension.bounds[1]


@dataclass(frozen=True)
class Tried:
    """What a search has tried: names of jobs that were begun, and the losses of those that have ended.

    The loss of what was stopped or has failed is infinite.
    """

    begun: Collection[JobName]
    losses: Mapping[JobName, float]

    @classmethod
    def of(cls, ended: Sequence[Evaluation], running: Sequence[Job], score: Objective | None) -> Tried:
        """By the score that losses are made of; without one they are all infinite."""
        losses = {e.job.name: _loss(e, score) for e in ended}
        return cls({*losses, *(job.name for job in running)}, losses)


def _loss(evaluation: Evaluation, score: Objective | None) -> float:
    value = math.nan if score is None else evaluation.metrics.get(score.metric, math.nan)
    done = evaluation.status == "done" and score is not None and math.isfinite(value)
    return score.loss(value) if done and score is not None else math.inf


@dataclass(frozen=True)
class Rungs:
    """Jobs of one hybrid by rising learning rate; `count` of them from `first` on are tried in any case.

    What comes next is a function of what was tried, so a search that was killed goes on as it would have.
    """

    jobs: Sequence[Job]
    first: int
    count: int
    role: str

    @classmethod
    def of(cls, hybrid: Hybrid, rates: Rates, role: str, cuttable: bool = False) -> Rungs:
        """A hybrid at these rates, as jobs of that role."""
        jobs = [Job(Candidate(hybrid, training), cuttable=cuttable, role=role) for training in rates.trainings]
        return cls(jobs, rates.first, rates.usual, role)

    @property
    def usual(self) -> Sequence[Job]:
        """Those that are tried in any case where nothing was learned of rates yet."""
        return self.jobs[self.first : self.first + self.count]

    def only(self, keys: Collection[str]) -> Rungs:
        """Those whose candidates have these keys."""
        kept = [job.candidate.key in keys for job in self.jobs]
        jobs = [job for job, is_kept in zip(self.jobs, kept, strict=True) if is_kept]
        end = self.first + self.count
        return replace(self, jobs=jobs, first=sum(kept[: self.first]), count=sum(kept[self.first : end]))

    def begun(self, tried: Tried) -> list[int]:
        """Which have been begun."""
        return [i for i, job in enumerate(self.jobs) if job.name in tried.begun]

    def left(self, tried: Tried, shift: int, further: bool) -> list[Job] | None:
        """What comes next: the rest of the first ones, or with `further` one more; nothing where that is all.

        None where it depends on what is running. `shift` is that of the hybrid before.
        """
        begun = self.begun(tried)
        if len(begun) < self.count:
            start = min(begun, default=min(max(0, self.first + shift), len(self.jobs) - self.count))
            return [self.jobs[i] for i in range(start, start + self.count) if i not in begun]
        losses = self._losses(tried)
        if not further:
            return []
        if len(losses) < len(begun):
            return None
        rung = next_rung(losses, len(self.jobs))
        return [] if rung is None else [self.jobs[rung]]

    def climbed(self, tried: Tried, further: bool) -> list[Job]:
        """Those that it has come to: the usual ones, further ones that were begun, and with `further` the next."""
        begun = [self.jobs[i] for i in self.begun(tried)]
        if len(begun) < self.count:
            return list(self.usual)
        return [*begun, *(self.left(tried, 0, further) or [])]

    def shift(self, tried: Tried) -> int:
        """How many rungs above its first ones (below: less than 0) the best of them is; 0 where it is among them."""
        losses = self._losses(tried)
        best = min(losses, key=lambda i: losses[i], default=self.first)
        return max(0, best - (self.first + self.count - 1)) + min(0, best - self.first)

    def _losses(self, tried: Tried) -> dict[int, float]:
        return {i: tried.losses[job.name] for i, job in enumerate(self.jobs) if job.name in tried.losses}


def next_rung(losses: Mapping[int, float], count: int) -> int | None:
    """The rung to try after those of known losses, of `count` rungs; None where there is no use in one.

    The best must be the highest (or lowest) of at least three, and the last step to it have gained at least half of the
    one before: what flattens, or has fallen back, is left.
    """
    if len(losses) < 3:
        return None
    best = min(losses, key=lambda i: (losses[i], i))
    for end, step in ((max(losses), 1), (min(losses), -1)):
        last, before, first = (losses[end - step * i] for i in range(3))
        gain, gained = before - last, first - before
        if best == end and 0 <= end + step < count and gain > 0 and gain >= gained / 2:
            return end + step
    return None


def large_rungs(hybrid: Hybrid | None, space: SearchSpace, rate: float) -> Rungs:
    """The large hybrid of a descent, if any, at rates of the range, and at further ones as far as it may be widened.

    `rate` is the training's own, around which they are where the space has none.
    """
    if hybrid is None:
        return Rungs((), 0, 0, LARGE)
    low, high, widest = _range(space, rate)
    rates = {part: low * (high / low) ** part for part in (*_LARGE_LOWER, *LARGE_AT, *_LARGE_HIGHER)}
    kept = [r for part, r in rates.items() if part in LARGE_AT or (widest and widest[0] <= r <= widest[1])]
    trainings = [{_RATE: r} for r in kept]
    return Rungs.of(hybrid, Rates(trainings, kept.index(rates[LARGE_AT[0]]), len(LARGE_AT)), LARGE, cuttable=True)


def healing_range(space: SearchSpace, rate: float) -> tuple[float, float]:
    """The least and the highest learning rate of a healing; `rate` is as for `large_rungs`."""
    low, high, widest = _range(space, rate)
    return low, max(_BEYOND * high, widest[1] if widest else 0.0)


def _range(space: SearchSpace, rate: float) -> tuple[float, float, tuple[float, float] | None]:
    """The range of learning rates, and how far it may be widened, if at all."""
    for d in space.dimensions:
        if d.name == _RATE and isinstance(d, Continuous):
            return d.low, d.high, d.bounds
    return rate / _WIDTH, rate * _WIDTH, None
