"""What a search trains, phase by phase: counted and timed before it begins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from autopeft.candidate import LARGE, SAMPLER, Job
from autopeft.confirming import FACTORS, controls_for, descent_for, first_cost
from autopeft.costs._flops import bare_flops
from autopeft.engine.linear_probe import RATES
from autopeft.engine.setup import Setup
from autopeft.hybrid import Hybrid
from autopeft.searching.controls import Controls
from autopeft.searching.descent import Descent
from autopeft.session import Session, typical_candidates
from autopeft.watching.clock import CONTROLS, HEALINGS, Outlook
from autopeft.wording import number

#: Phases that come after the search.
_CONFIRM, _ALONE = "confirmations", "baselines"
#: Seconds of a worker for so many epochs of a hybrid.
Timed = Callable[[Hybrid, int], float]
T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """So many trainings of so many epochs; None where that is not known. `seconds` are of all, on one worker.

    `words` say more of them, `facts` say it for programs.
    """

    name: str
    trainings: int | None
    epochs: int | None
    seconds: float | None
    words: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it, the facts beside the rest."""
        return {**{name: value for name, value in vars(self).items() if name != "facts"}, **self.facts}


def seconds_for(session: Session, setup: Setup, hybrid: Hybrid) -> float:
    """Seconds of a worker for a hybrid's training and validation, all epochs."""
    return setup.seconds(session.cost_model.candidate(hybrid), session.steps)


def outlook_of(session: Session, setup: Setup) -> Outlook:
    """What a search is expected to take that trains as the engine was measured."""
    epochs, workers = session.experiment.training.epochs, session.experiment.runner.parallel

    @lru_cache(maxsize=65_536)
    def whole(hybrid: Hybrid) -> float:
        return seconds_for(session, setup, hybrid)

    def expected(job: Job, of: int | None) -> float:
        length = (job.epochs or epochs) if of is None else of
        return whole(job.candidate.hybrid) * length / epochs

    drawn = [whole(candidate.hybrid) for candidate in typical_candidates(session)]
    usual = sum(drawn) / len(drawn)
    phases = phases_of(session, lambda hybrid, of: whole(hybrid) * of / epochs, usual, setup)
    before = {p.name: p for p in phases if p.name in (CONTROLS, LARGE, HEALINGS)}
    planned = {name: (p.trainings, (p.seconds or 0.0) / p.trainings) for name, p in before.items() if p.trainings}
    after = {p.name: p.seconds or 0.0 for p in phases}
    return Outlook(planned, usual, expected, after.get(_CONFIRM, 0.0) / workers + after.get(_ALONE, 0.0))


def phases_of(session: Session, timed: Timed, typical: float, setup: Setup) -> list[Phase]:
    """Those that the experiment has, in their order; `typical` are the seconds of a candidate of the sampler's."""
    experiment = session.experiment
    trials, epochs = experiment.trials, experiment.training.epochs
    found = [*_probe(session, setup), *_controls(session, timed)]
    found += _descent(session, timed, sum(p.trainings or 0 for p in found if p.name == CONTROLS))
    taken = sum(p.trainings or 0 for p in found if p.name != "probe")
    left = None if trials is None else max(0, trials - taken)
    seconds = None if left is None else left * typical
    found.append(Phase(SAMPLER, left, epochs, seconds, experiment.sampler.name, {"sampler": experiment.sampler.name}))
    return [*found, *_confirm(session, found), *_baselines(session, setup)]


def _probe(session: Session, setup: Setup) -> list[Phase]:
    if session.experiment.training.head != "probe" or not session.head_params:
        return []
    seconds = session.cost_model.filling(session.shape.layers) / setup.flops_per_second
    return [Phase("probe", len(RATES), None, seconds, "of the head alone, the best of which all begin with")]


def _controls(session: Session, timed: Timed) -> list[Phase]:
    source, epochs = controls_for(session), session.experiment.training.epochs
    if source is None:
        return []
    groups = _within([(group, len(group[1]) * timed(group[1][0].hybrid, epochs)) for group in source.groups], source)
    jobs = [candidate for _, group in groups for candidate in group]
    cost, names = first_cost(session), [name for name, _ in groups]
    costs = [session.costs(group[0].hybrid)[cost] for _, group in groups]
    rates = max((len(group) for _, group in groups), default=0)
    words = f"{len(names)} at {rates} learning rates each: {'; '.join(names)}"
    listed = [{"name": name, cost: value} for name, value in zip(names, costs, strict=True)]
    facts = {"controls": listed, "rates": rates}
    return [Phase(CONTROLS, len(jobs), epochs, sum(timed(c.hybrid, epochs) for c in jobs), words, facts)]


def _within(steps: Sequence[tuple[T, float]], source: Controls | Descent) -> list[T]:
    """Of steps with their seconds those that begin before the source's seconds are spent."""
    begins = itertools.accumulate((seconds for _, seconds in steps), initial=0.0)
    return [step for (step, _), begin in zip(steps, begins, strict=False) if begin < source.allowed.seconds]


def _descent(session: Session, timed: Timed, before: int) -> list[Phase]:
    source, trials = descent_for(session, Path()), session.experiment.trials
    trunk = [] if source is None else source.trunk()
    if source is None or not trunk:
        return []
    hybrid, epochs = trunk[0].candidate.hybrid, session.experiment.training.epochs
    most = min(source.allowed.trainings, math.inf if trials is None else trials - before)
    # A step is begun where all of it fits.
    large, each = len(trunk) if len(trunk) <= most else 0, len(source.settings.rates)
    steps = [(limit, each * timed(hybrid, source.healing_epochs(limit))) for limit in _cuts(source)]
    cuts = _within([(0, large * timed(hybrid, epochs)), *steps], source)[1:]
    cuts = cuts[: int(max(0, most - large) // each) if large else 0] if math.isfinite(most) else cuts
    healings = len(cuts) * each
    cost, whole = source.cost, source.cost_of(hybrid)
    lengths = [source.healing_epochs(limit) for limit in cuts]
    facts = {"cost": cost, "cuts": cuts, "rates": each, "healing_epochs": lengths}
    to = ", ".join(number(limit) for limit in cuts)
    words = f"of {len(cuts)} cuts to at most {to} {cost}, at {each} learning rates each"
    if len(set(lengths)) > 1:
        words += f", of {', '.join(map(str, lengths))} epochs"
    return [
        Phase(
            LARGE, int(large), epochs, large * timed(hybrid, epochs),
            f"the largest that fits, {number(whole)} {cost}, at as many learning rates", {cost: whole},
        ),
        # A cut hybrid takes less time than the large one, nobody knows how much: that depends on where it is cut.
        Phase(
            HEALINGS, int(healings), lengths[0] if len(set(lengths)) == 1 else None,
            healings * sum(timed(hybrid, length) for length in lengths) / max(1, len(lengths)),
            words if cuts else "nothing is cut", facts,
        ),
    ]  # fmt: skip


def _cuts(source: Descent) -> list[int]:
    """Costs at most of the cuts, one after another, if each uses its limit."""
    found: list[int] = []
    here: int | None = source.cost_of(source.trunk()[0].candidate.hybrid)
    while here is not None and (here := source.next_cost(here)) is not None and here not in found:
        found.append(here)
    return found


def _confirm(session: Session, before: list[Phase]) -> list[Phase]:
    """At most its share of what the search takes."""
    confirm, epochs = session.experiment.confirm, session.experiment.training.epochs
    if not confirm.on:
        return []
    seconds = _searched(before, session)
    members = "the front's members, those near it" if confirm.members == "auto" else f"{confirm.members} members"
    words = (
        f"up to {confirm.seeds - 1} other seeds for each of {members} and the best controls, for at most "
        f"{confirm.time:.0%} of the search's time"
    )
    facts = {"seeds": confirm.seeds, "members": confirm.members, "time": confirm.time}
    return [Phase(_CONFIRM, None, epochs, None if seconds is None else confirm.time * seconds, words, facts)]


def _baselines(session: Session, setup: Setup) -> list[Phase]:
    """Controls that train the backbone: by the FLOPs of full fine-tuning, with nothing kept and nothing packed."""
    experiment, shape = session.experiment, session.shape
    names = list(experiment.controls.baselines.values())
    if not (names and experiment.confirm.on):
        return []
    work = session.cost_model.workload

    def forward(tokens: int, source: int) -> int:
        return bare_flops(shape, tokens, None, source)

    each = setup.seconds(3 * work.trained.sum_pairs(forward) + work.measured.sum_pairs(forward), session.steps)
    count = len(names) * (len(FACTORS) + experiment.confirm.seeds - 1)
    words = f"{', '.join(names)}: {len(FACTORS)} learning rates, then other seeds"
    return [Phase(_ALONE, count, experiment.training.epochs, count * each, words, {"baselines": names})]


def seconds_of(phases: list[Phase], session: Session) -> float | None:
    """Seconds of the whole, by all workers, with what comes after the search; None where nobody knows."""
    search = _searched(phases, session)
    if search is None:
        return None
    after = {p.name: p.seconds or 0.0 for p in phases}
    # Baselines are trained one at a time, whatever the workers.
    return (search + after.get(_CONFIRM, 0.0)) / session.experiment.runner.parallel + after.get(_ALONE, 0.0)


def _searched(phases: list[Phase], session: Session) -> float | None:
    """Seconds of training of the search itself."""
    experiment, own = session.experiment, [p.seconds for p in phases if p.name not in (_CONFIRM, _ALONE)]
    limit = experiment.seconds
    known = None if None in own else sum(seconds for seconds in own if seconds is not None)
    return limit if known is None else known if limit is None else min(known, limit)
