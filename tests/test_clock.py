"""How long a search still takes, by trainings whose times are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from autopeft.candidate import Candidate, Evaluation, Job, Origin
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.searching.study import Proposal
from autopeft.watching.clock import Clock
from autopeft.watching.outlook import Outlook
from autopeft.watching.pace import Pace, makespan


def candidate(rank: int, rate: float = 1e-3) -> Candidate:
    return Candidate(Hybrid.uniform(2, LoRA(rank)), {"learning_rate": rate})


#: Seconds of a training that are not of its products, as they are expected and as they are.
BESIDE, TRULY_BESIDE = 0.1, 0.13
#: Of products of the sampler's trainings.
USUAL = 4.0
_OF_PHASE = {
    "controls": Job(candidate(1), role="control lora 1"),
    "large hybrid": Job(candidate(1), role="large hybrid"),
    "healings": Job(candidate(1), origin=Origin("parent", "start")),
}


class Simulated:
    """Packs on workers that train `slower` than expected, after a start of their own.

    `planned` are the seconds of products of the trainings that come before the sampler's, by phase; `healed`: a healing
    has this share of what was planned for it.
    """

    def __init__(
        self,
        workers: int,
        trials: int,
        pack: int,
        start: float,
        slower: float,
        ask: float = 0.0,
        planned: Mapping[str, Sequence[float]] | None = None,
        healed: float = 1.0,
    ) -> None:
        self.now, self.workers, self.trials, self.pack = 0.0, workers, trials, pack
        self.start, self.slower, self.ask, self.next, self.sizes = start, slower, ask, 0, dict[int, int]()
        self.clock = Clock(trials, workers, 2, now=lambda: self.now)
        planned = {"controls": [1.0] * pack} if planned is None else planned
        told = {phase: [seconds + BESIDE for seconds in each] for phase, each in planned.items()}
        self.clock.expecting(lambda: Outlook(told, USUAL + BESIDE, self.expected, BESIDE))
        self.jobs: list[Job] = []
        self.products: dict[str, float] = {}
        for phase, seconds in ((phase, seconds) for phase, each in planned.items() for seconds in each):
            self._add(_OF_PHASE[phase], seconds * (healed if phase == "healings" else 1.0))
        while len(self.jobs) < trials:
            self._add(Job(candidate(1)), USUAL)
        self.said: list[tuple[float, float]] = []

    def _add(self, job: Job, products: float) -> None:
        """Each has a candidate of its own, which its seconds are known by."""
        own = candidate(1, 1e-3 + 1e-6 * len(self.jobs))
        self.jobs.append(replace(job, candidate=own))
        self.products[own.key] = products

    def expected(self, job: Job, epochs: int | None) -> float:
        return (self.products[job.candidate.key] + BESIDE) * (2 if epochs is None else epochs) / 2

    def took(self, job: Job) -> float:
        return self.slower * (self.products[job.candidate.key] + TRULY_BESIDE)

    def run(self) -> float:
        """(Time, seconds left) after each pack; returns when it ended."""
        events: list[tuple[float, int, int]] = []
        for worker in range(self.workers):
            self._send(events, self.start * (1 + worker / 4))
        while events:
            events.sort()
            self.now, epoch, first = events.pop(0)
            numbers = range(first, first + self.sizes[first])
            if epoch <= 2:
                for number in numbers:
                    self.clock.epoch(number, epoch)
                continue
            for number in numbers:
                job = self.jobs[number]
                found = Evaluation(job.candidate, "done", {}, number=number, seconds=self.took(job), role=job.role)
                self.clock.finished(replace(found, origin=job.origin, curve=({}, {})))
            self.said.append((self.now, self.clock.left() or 0.0))
            self._send(events, self.now + self.ask)
        return self.now

    def _send(self, events: list[tuple[float, int, int]], begin: float) -> None:
        # As a search does it: near the end a pack is a worker's share of what is left.
        first, count = self.next, min(self.pack, -(-(self.trials - self.next) // self.workers))
        if count <= 0:
            return
        self.next += count
        self.sizes[first] = count
        jobs = self.jobs[first : self.next]
        for i, job in enumerate(jobs):
            self.clock.started(Proposal(first + i, job, False, pack=first))
        seconds = sum(map(self.took, jobs))
        events += [(begin + seconds / 2, 1, first), (begin + seconds, 2, first), (begin + seconds + 1e-6, 3, first)]

    def check(self, first: int = 0) -> None:
        """Within 30% from the pack of that place on, while there is more than a tenth of the search to come."""
        end = self.run()
        for at, left in self.said[first:]:
            if end - at > 0.1 * end:
                assert left == pytest.approx(end - at, rel=0.3), (at, left, end - at)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("slower", [0.8, 1.0, 1.3])
def test_what_is_left_is_known_within_thirty_percent_after_the_first_pack(workers: int, slower: float) -> None:
    Simulated(workers, 48, 4, start=25.0, slower=slower, ask=0.3).check()


@pytest.mark.parametrize("slower", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("workers", [1, 2])
def test_tiny_trainings_first_and_a_busy_machine_do_not_mislead(workers: int, slower: float) -> None:
    planned = {"controls": [0.0, *[0.2] * 3, *[0.8] * 3, *[3.0] * 3]}
    Simulated(workers, 30, 1, start=10.0, slower=slower, planned=planned).check()


def test_what_is_healed_is_known_by_the_first_that_was() -> None:
    planned = {"large hybrid": [6.0] * 3, "healings": [6.0] * 16}
    Simulated(2, 24, 2, start=10.0, slower=1.0, planned=planned, healed=0.4).check(first=4)


def test_a_machine_much_slower_than_measured_is_found_out() -> None:
    Simulated(1, 48, 4, start=60.0, slower=5.0).check()


def test_a_machine_that_becomes_busy_is_found_out_while_a_pack_runs() -> None:
    simulated = Simulated(1, 10, 1, start=1.0, slower=1.0, planned={})
    clock = simulated.clock
    for number in range(5):
        clock.started(Proposal(number, simulated.jobs[number], False))
        simulated.now += USUAL
        clock.epoch(number, 2)
        found = Evaluation(simulated.jobs[number].candidate, "done", {}, number=number, seconds=USUAL)
        clock.finished(replace(found, curve=({}, {})))
    clock.started(Proposal(5, simulated.jobs[5], False))
    simulated.now += USUAL / 2
    clock.epoch(5, 1)
    before = clock.left() or 0.0
    simulated.now += 5 * USUAL
    # Its second epoch, which was to take as long as the first, takes ten times as long already.
    assert (clock.left() or 0.0) > 1.2 * before


def test_seconds_of_small_trainings_weigh_less() -> None:
    tiny, large = Pace().after(3.0, 1.0, 1.0), Pace().after(3.0, 1.0, 0.0)
    assert Pace().factor == 1.0
    assert 1.0 < tiny.factor < large.factor < 3.0
    assert tiny.after(2.0, 1.0, 0.0).factor == pytest.approx(2.0, rel=0.1)
    assert Pace().after(0.0, 1.0, 0.0) == Pace().after(1.0, 0.0, 0.0) == Pace()


def test_workers_share_what_is_left() -> None:
    assert makespan([], [], 2) == 0
    assert makespan([3.0], [], 2) == 3
    assert makespan([3.0, 1.0], [1.0, 1.0, 1.0], 2) == 4
    assert makespan([5.0], [1.0] * 1_000, 4) == pytest.approx(1005 / 4)


def test_what_comes_after_is_reckoned_at_the_pace_of_the_search() -> None:
    clock = Clock(2, 1, 1, now=lambda: 0.0)
    assert clock.later == 0
    clock.expecting(lambda: Outlook({}, 10.0, lambda job, epochs: 10.0, confirming=0.5, alone=4.0))
    # A search of 20 seconds, other seeds for half of that, and a baseline.
    assert clock.later == pytest.approx(14.0)


def test_a_limit_of_time_ends_it_sooner() -> None:
    now = [10.0]
    clock = Clock(100, 1, 1, limit=60.0, now=lambda: now[0])
    assert clock.left() == 60.0
    clock.expecting(lambda: Outlook({}, 10.0, lambda job, epochs: 10.0))
    now[0] += 15
    assert clock.left() == 45.0
    assert Clock(None, 1, 1).left() is None
