"""What a search trains, phase by phase: counted and timed before it begins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from autopeft.candidate import LARGE, SAMPLER, Job
from autopeft.confirming import FACTORS, controls_for, descent_for, first_cost
from autopeft.costs._flops import bare_flops
from autopeft.engine.linear_probe import RATES
from autopeft.engine.schedule import lengths_of
from autopeft.engine.setup import Setup, places_of
from autopeft.hybrid import Hybrid
from autopeft.searching.controls import Controls
from autopeft.searching.descent import Descent
from autopeft.session import Session, typical_candidates
from autopeft.watching.outlook import CONTROLS, HEALINGS, Outlook
from autopeft.wording import number

#: Phases that come after the search.
_CONFIRM, _ALONE = "confirmations", "baselines"
#: What a training takes that was not measured: in seconds, to begin and to end; for each of its steps, in seconds of
#: the head's own, but no more than such a share of a usual training; and of all that so much where there is but a head.
#: By CPU seconds of small hybrids in the top layers: large ones take no more than what was measured.
_ONCE, _AROUND, _MOST_AROUND, _OF_HEAD = 0.4, 1.0, 0.15, 0.25
#: Of their epochs the sampler's trainings were trained for about so many where some were stopped early.
_STOPPED = 0.85
#: How many times as long fp32 takes where bf16 is chosen and fp32 was not tried.
_FP32 = 2.5
#: Seconds of a worker for so many epochs of a hybrid.
Timed = Callable[[Hybrid, int], float]
T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """So many trainings of so many epochs; None where that is not known. `seconds` are of all, on one worker.

    `words` say more of them, `facts` say it for programs. `hybrids`: what is trained and for how many epochs, in its
    order, where that is known or can be bounded.
    """

    name: str
    trainings: int | None
    epochs: int | None
    seconds: float | None
    words: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    hybrids: Sequence[tuple[Hybrid, int]] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it but the hybrids, the facts beside the rest."""
        own = {name: value for name, value in vars(self).items() if name not in ("facts", "hybrids")}
        return {**own, **self.facts}


def seconds_for(session: Session, setup: Setup, hybrid: Hybrid) -> float:
    """Seconds of a worker for a hybrid's training and validation, all epochs."""
    return setup.seconds(session.cost_model.candidate(hybrid), session.steps, places_of(hybrid))


def alone_seconds(session: Session, setup: Setup) -> float:
    """Seconds of what trains the backbone itself, all epochs: by the FLOPs of full fine-tuning."""
    work = session.cost_model.workload

    def forward(tokens: int, source: int) -> int:
        return bare_flops(session.shape, tokens, None, source)

    return setup.seconds(3 * work.trained.sum_pairs(forward) + work.measured.sum_pairs(forward), session.steps)


def outlook_of(session: Session, setup: Setup) -> Outlook:
    """What a search is expected to take that trains as the engine was measured."""
    epochs, confirm = session.experiment.training.epochs, session.experiment.confirm
    steps, drawn = setup.seconds(0, session.steps), [c.hybrid for c in typical_candidates(session)]
    # Not measured: to gather batches, to validate, what a small hybrid's hooks take beyond the head's own step.
    most = _MOST_AROUND * fmean(seconds_for(session, setup, hybrid) for hybrid in drawn)
    around = _ONCE + min(_AROUND * steps, most)
    probed = session.experiment.training.head == "probe" and session.head_params

    @lru_cache(maxsize=65_536)
    def whole(hybrid: Hybrid) -> float:
        return seconds_for(session, setup, hybrid) + (_OF_HEAD * around if hybrid.is_empty else around)

    def timed(hybrid: Hybrid, of: int) -> float:
        return whole(hybrid) * of / epochs

    def expected(job: Job, of: int | None) -> float:
        return timed(job.candidate.hybrid, (job.epochs or epochs) if of is None else of)

    def filling(job: Job) -> float:
        return session.cost_model.filling(job.candidate.hybrid.first_adapted) / setup.flops_per_second

    usual = fmean(map(whole, drawn))
    phases = {phase.name: phase for phase in phases_of(session, timed, usual, setup)}
    before = [phases[name] for name in (CONTROLS, LARGE, HEALINGS) if name in phases]
    return Outlook(
        planned={phase.name: [timed(*each) for each in phase.hybrids] for phase in before},
        usual=usual,
        expected=expected,
        beside=steps + around,
        # A linear probe has computed the frozen layers before.
        filling=(lambda job: 0.0) if probed else filling,
        confirming=confirm.time if confirm.on else 0.0,
        alone=phases[_ALONE].seconds or 0.0 if _ALONE in phases else 0.0,
        testing=_testing(session, setup),
        share=_STOPPED if session.experiment.stopping.stops else 1.0,
    )


def _testing(session: Session, setup: Setup) -> float:
    """Seconds to measure one training on the test splits: passes through the whole backbone, in fp32."""
    shape, tried = session.shape, setup.milliseconds

    def forward(tokens: int, source: int) -> int:
        return bare_flops(shape, tokens, None, source)

    flops = sum(lengths_of(tests.test).sum_pairs(forward) for tests in session.tests.values())
    slower = _FP32 if setup.precision == "bf16" else 1.0
    if "bf16" in tried and "fp32" in tried and setup.precision == "bf16":
        slower = tried["fp32"] / tried["bf16"]
    return slower * setup.seconds(flops, 0)


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
    hybrids = [(c.hybrid, epochs) for c in jobs]
    return [Phase(CONTROLS, len(jobs), epochs, sum(timed(*each) for each in hybrids), words, facts, hybrids)]


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
            [(hybrid, epochs)] * int(large),
        ),
        # A cut hybrid takes less time than the large one, nobody knows how much: that depends on where it is cut.
        Phase(
            HEALINGS, int(healings), lengths[0] if len(set(lengths)) == 1 else None,
            healings * sum(timed(hybrid, length) for length in lengths) / max(1, len(lengths)),
            words if cuts else "nothing is cut", facts, [(hybrid, length) for length in lengths for _ in range(each)],
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
    """Controls that train the backbone, with nothing kept and nothing packed."""
    experiment = session.experiment
    names = list(experiment.controls.baselines.values())
    if not (names and experiment.confirm.on):
        return []
    each = alone_seconds(session, setup)
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
