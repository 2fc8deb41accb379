"""Which candidates the loop gives out, and when it ends; nothing is trained."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
from test_study import BUDGET, OBJECTIVES, SPACE, TINY, evaluated, opened

from autopeft.budget import Budget
from autopeft.candidate import Evaluation, Job
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.searching.loop import Listener, SearchLoop
from autopeft.searching.study import Proposal
from autopeft.space import SearchSpace
from autopeft.watching.desk import Desk
from autopeft.watching.now import Answer
from autopeft.watching.requests import Stop, put

FEW = SearchSpace.load({"blocks": {"lora": {"rank": [0, 2]}}}, TINY)


def costs(hybrid: Hybrid) -> dict[str, int]:
    return {"trainable_params": hybrid.num_params(TINY)}


class Heard(Listener):
    """Keeps the numbers of what has started."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def started(self, proposal: Proposal) -> None:
        self.numbers.append(proposal.number)

    def epoch(self, proposal, metrics) -> None:
        pass

    def finished(self, evaluation) -> None:
        pass


def finish(loop: SearchLoop, *packs: list[Proposal]) -> None:
    for pack in packs:
        for proposal in pack:
            loop.done({proposal.number: evaluated(proposal)})


def test_a_candidate_is_stopped_before_its_last_epoch_or_not_at_all(tmp_path: Path) -> None:
    answers: list[Answer] = []
    desk = Desk(tmp_path, lambda candidate: None, answers.append, pause=0.0)
    loop = SearchLoop(opened(tmp_path), costs, epochs=2, desk=desk)
    (first,), (second,) = loop.next_pack(1), loop.next_pack(1)
    for proposal in (first, second):
        put(tmp_path, Stop(number=proposal.number))
    assert loop.epoch({first.number: {"epoch": 2, "accuracy": 0.5}}) == set()
    assert loop.epoch({second.number: {"epoch": 1, "accuracy": 0.5}}) == {second.number}
    finish(loop, [first])
    assert [answer.said for answer in answers][-2:] == ["#1 is stopped", "#0 was through before"]


def numbers(pack: list[Proposal]) -> list[int]:
    return [proposal.number for proposal in pack]


def test_packs_are_distinct_and_everyone_hears_of_them(tmp_path: Path) -> None:
    heard = Heard()
    loop = SearchLoop(opened(tmp_path), costs, [heard], trials=None)
    first, second = loop.next_pack(5, workers=2), loop.next_pack(5, workers=2)
    assert (numbers(first), numbers(second)) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    assert len({p.candidate.key for p in first + second}) == 10
    assert heard.numbers == list(range(10))
    assert all(BUDGET.fits(p.candidate.hybrid, TINY) for p in first + second)


@pytest.mark.parametrize(
    ("trials", "size", "workers", "sizes"),
    [
        (10, 4, 1, [4, 4, 2]),
        (10, 4, 2, [4, 3, 2, 1]),
        (3, 8, 1, [3]),
        (3, 8, 4, [1, 1, 1]),
        (5, 1, 2, [1, 1, 1, 1, 1]),
    ],
)
def test_the_last_packs_are_shared_by_the_workers(
    tmp_path: Path, trials: int, size: int, workers: int, sizes: list[int]
) -> None:
    study = opened(tmp_path)
    loop, packs = SearchLoop(study, costs, trials=trials), []
    while pack := loop.next_pack(size, workers):
        packs.append(pack)
    assert [len(pack) for pack in packs] == sizes
    assert not loop.is_over
    finish(loop, *packs)
    assert loop.is_over
    assert loop.next_pack(size, workers) == []
    assert study.finished == trials


def test_a_killed_search_goes_on_with_its_packs(tmp_path: Path) -> None:
    killed = SearchLoop(opened(tmp_path), costs, trials=12)
    finish(killed, killed.next_pack(1))
    first, second = killed.next_pack(3), killed.next_pack(2)
    resumed = SearchLoop(opened(tmp_path), costs, trials=12)
    assert [resumed.next_pack(4) for _ in range(2)] == [first, second]
    assert (numbers(first), numbers(second), numbers(resumed.next_pack(4))) == ([1, 2, 3], [4, 5], [6, 7, 8, 9])


def test_a_pack_that_was_too_large_is_divided(tmp_path: Path) -> None:
    """The machine may have killed the search for it; and what was asked for above the number of trials waits."""
    SearchLoop(opened(tmp_path), costs, trials=12).next_pack(5)
    resumed = SearchLoop(opened(tmp_path), costs, trials=12)
    assert [numbers(resumed.next_pack(2)) for _ in range(4)] == [[0, 1], [2, 3], [4], [5, 6]]
    fewer = SearchLoop(opened(tmp_path), costs, trials=4)
    assert [numbers(fewer.next_pack(8)) for _ in range(2)] == [[0, 1, 2, 3], []]


def test_a_pack_ends_where_the_space_does(tmp_path: Path) -> None:
    study = opened(tmp_path, space=FEW, budget=Budget(), objectives=OBJECTIVES, sampler="random")
    loop = SearchLoop(study, costs, trials=100)
    with pytest.warns(UserWarning, match="no new candidate"):
        pack = loop.next_pack(50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loop.next_pack(50) == []
    assert len({p.candidate.key for p in pack}) == len(pack) == FEW.size
    finish(loop, pack)
    assert loop.is_over
    assert study.pending() == []


class _Waiting:
    """A source that has one more training of what has ended first, once that has."""

    def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job] | None:
        healed = [Job(e.candidate, epochs=1) for e in ended[:1]]
        return None if len(ended) > FEW.size or len(running) > FEW.size else healed

    def needs(self, ended: Sequence[Evaluation]) -> Collection[str]:
        return set()


def test_where_the_space_ends_a_source_that_waits_is_waited_for(tmp_path: Path) -> None:
    study = opened(tmp_path, space=FEW, budget=Budget(), objectives=OBJECTIVES, sampler="random")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop = SearchLoop(study, costs, trials=100, sources=[_Waiting()])
        pack = loop.next_pack(50)
        # Another worker asks, and is sent home.
        assert loop.next_pack(50) == []
        finish(loop, pack)
        assert not loop.is_over
        assert loop.goes_on()
        [healed] = loop.next_pack(50)
    assert healed.job.epochs == 1
    loop.done({healed.number: evaluated(healed, epochs=1)})
    with pytest.warns(UserWarning, match="no new candidate"):
        assert loop.next_pack(50) == []
    assert loop.is_over
    assert not loop.goes_on()


def test_no_pack_is_begun_after_the_time(tmp_path: Path) -> None:
    loop = SearchLoop(opened(tmp_path), costs, time_limit=0.0)
    assert loop.next_pack(3) == []
    assert loop.is_over
    assert SPACE.size > 3


def test_what_a_killed_pack_leaves_is_tried_after_tunes_end(tmp_path: Path) -> None:
    """Tune asks no more once it was told the end, and the pack that still runs may be killed then."""
    from autopeft.runners._tune import AskTell

    searcher = AskTell(SearchLoop(opened(tmp_path), costs, trials=2), 2, 1)
    pack = searcher.suggest("pack")
    assert isinstance(pack, dict)
    assert len(pack["jobs"]) == 2
    assert searcher.suggest("no more") == "FINISHED"
    assert not searcher.is_left_over
    searcher.on_trial_complete("pack", None, error=True)
    assert searcher.is_left_over
    each = [searcher.suggest(name) for name in ("one", "other")]
    assert [one["jobs"] for one in each if isinstance(one, dict)] == [[job] for job in pack["jobs"]]
    assert not searcher.is_left_over


def test_a_worker_that_cannot_start_is_given_no_candidates_to_fail(tmp_path: Path) -> None:
    from autopeft.runners._tune import AskTell, PackTrainable

    study, worker = opened(tmp_path), PackTrainable.__new__(PackTrainable)
    worker._run = worker._worker = None
    worker._broken = "the worker could not start: OutOfMemoryError: no room"
    searcher, packs = AskTell(SearchLoop(study, costs, trials=8), 2, 2), []
    for name in ("first", "second", "third"):
        assert searcher.error is None
        packs.append(pack := searcher.suggest(name))
        assert isinstance(pack, dict)
        worker._begin(pack)
        searcher.on_trial_complete(name, worker.step())
        assert searcher.is_left_over is (name != "third")
    # The same pack, whole: of equal company it is equal to the bit.
    assert packs[0] == packs[1] == packs[2]
    assert isinstance(searcher.error, AutopeftError)
    assert "the worker could not start" in str(searcher.error)
    assert searcher.suggest("fourth") == "FINISHED"
    # Nothing was told: they are trained first when the search goes on.
    assert study.evaluations() == []
    assert [len(pack) for pack in opened(tmp_path).pending_packs()] == [2]


class _Full:
    """A source that cannot write down what its next training begins at."""

    def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job] | None:
        raise AutopeftError("cut.safetensors: cannot be written (No space left on device)")

    def needs(self, ended: Sequence[Evaluation]) -> Collection[str]:
        return {"parent"}


def test_a_full_disk_at_the_end_keeps_what_a_source_needs(tmp_path: Path) -> None:
    assert SearchLoop(opened(tmp_path), costs, (), 4, sources=[_Full()]).needed == {"parent"}
