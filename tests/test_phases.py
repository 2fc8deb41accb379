"""Killed in any phase of a search that has them all, it goes on as if it had not been.

Controls, a descent, a sampler, other seeds for trained and for healed members, test scores, the files of the end.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_project
from kill_points import PHASES, WIDENING, arm, ended
from test_resumed import assert_same, facts

from autopeft.engine.kept import load_weights
from autopeft.errors import AutopeftError
from autopeft.result import SearchResult
from autopeft.searching.confirming.plan import job_with
from autopeft.searching.confirming.records import runs_in

#: The time of other seeds is no limit here: it would make what is trained depend on the machine.
FIELDS: dict[str, Any] = {
    "space": {
        "blocks": {"lora": {"rank": [0, 1, 2, 4, 8]}, "parallel": {"bottleneck": [0, 2, 8]}},
        "training": {"learning_rate": {"low": 3e-3, "high": 3e-2, "log": True}},
    },
    "trials": 13,
    "controls": {"names": ["head"], "share": 0.25},
    "descent": {"least": 0.2, "share": 0.6},
    "confirm": {"seeds": 2, "time": 100},
    "runner": {"name": "in_process", "cpus": 1, "pack": 4},
    "sampler": {"name": "known_cost", "startup": 2, "seed": 3},
    "stopping": {"name": "halving", "startup": 2},
    "training": {"epochs": 3, "batch_size": 16, "max_length": 16, "precision": "fp32", "seed": 5},
}

#: The sampler alone, with rates that are too low.
NARROW: dict[str, Any] = {
    "space": {
        "blocks": FIELDS["space"]["blocks"],
        "training": {"learning_rate": {"low": 1e-4, "high": 1e-3, "log": True}},
    },
    "trials": 20,
    "controls": "none",
    "descent": None,
    "confirm": "none",
    "stopping": "none",
}

pytestmark = pytest.mark.usefixtures("one_setup")


def search(project: Path, out: Path, **changes: Any) -> SearchResult:
    return tiny_project.search(project, out, FIELDS, **changes)


@pytest.fixture(scope="module")
def undisturbed(project: Path) -> SearchResult:
    return search(project, project / "undisturbed")


def test_the_search_has_all_phases(undisturbed: SearchResult) -> None:
    roles = [e.role.partition(" ")[0] for e in undisturbed.evaluations]
    assert roles == ["control"] + 3 * ["large"] + 4 * ["healed"] + 5 * [""]
    by_number, runs = {e.number: e for e in undisturbed.evaluations}, runs_in(undisturbed.remembered)
    # Both kinds, and a large hybrid for the healed ones' sake.
    assert {by_number[number].born for number in runs} == {"trained", "healed"}
    assert any(by_number[number].role == "large hybrid" for number in runs)
    assert any(e.born == "healed" for e in undisturbed.front.points)


def test_a_healed_member_that_fell_off_the_front_may_come_back(undisturbed: SearchResult) -> None:
    """It cannot be trained again without what it began at, and what comes back is measured on test."""
    by_number, on_front = {e.number: e for e in undisturbed.evaluations}, {e.number for e in undisturbed.front.points}
    runs = runs_in(undisturbed.remembered)
    off = [e for e in map(by_number.__getitem__, runs) if e.number not in on_front and e.origin is not None]
    assert off
    for job in (job_with(member, seed) for member in off for seed in (5, 6)):
        assert job.origin is not None
        for name in (job.origin.start, undisturbed.experiment.training.weights_name(job)):
            assert load_weights(undisturbed.run_dir / "weights", name) is not None


#: The rest takes long.
QUICK = ("a cut is written", "a healing with another seed, its epoch", "weights that nobody needs are going")


@pytest.mark.parametrize("point", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PHASES])
def test_killed_here_it_goes_on_the_same(point: str, project: Path, undisturbed: SearchResult, tmp_path: Path) -> None:
    assert ended(project, tmp_path / "run", point, signal.SIGKILL, FIELDS) == -signal.SIGKILL
    assert_same(search(project, tmp_path / "run"), undisturbed)


@pytest.fixture(scope="module")
def widened(project: Path) -> SearchResult:
    return search(project, project / "widened", **NARROW)


@pytest.mark.slow
@pytest.mark.parametrize("point", WIDENING)
def test_killed_while_ranges_widen_it_goes_on_the_same(
    point: str, project: Path, widened: SearchResult, tmp_path: Path
) -> None:
    assert max(e.candidate.training["learning_rate"] for e in widened.evaluations) > 1.01e-3
    assert ended(project, tmp_path / "run", point, signal.SIGKILL, {**FIELDS, **NARROW}) == -signal.SIGKILL
    assert_same(search(project, tmp_path / "run", **NARROW), widened)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["a cut is being written", "its cut is being written"])
def test_a_cut_that_the_disk_has_no_room_for_ends_the_search_in_a_line(
    point: str, project: Path, undisturbed: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A healing without what it begins at would have failed for good."""

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        arm(point, full, patched)
        with pytest.raises(AutopeftError, match=r"-cut-.*safetensors: cannot be written \(No space left on device\)"):
            search(project, tmp_path / "run")
    assert_same(search(project, tmp_path / "run"), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["large hybrids, their second epoch", "a healing with another seed, its epoch"])
def test_killed_on_ray_it_goes_on_the_same(
    point: str, project: Path, undisturbed: SearchResult, tmp_path: Path
) -> None:
    runner = {"name": "ray", "workers": 1, "pack": 4}
    status = ended(project, tmp_path / "run", point, signal.SIGKILL, {**FIELDS, "runner": runner})
    assert status == -signal.SIGKILL
    assert_same(search(project, tmp_path / "run", runner=runner), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["healings, their epoch", "an ancestor with another seed, its second epoch"])
def test_of_two_workers_nothing_is_lost_or_trained_twice(
    point: str, project: Path, undisturbed: SearchResult, tmp_path: Path
) -> None:
    """What comes next depends on who was first; what had ended is as it was, and all phases come to their end."""
    runner = {"name": "ray", "workers": 2, "pack": 2}
    status = ended(project, tmp_path / "run", point, signal.SIGKILL, {**FIELDS, "runner": runner})
    assert status == -signal.SIGKILL
    killed = SearchResult.open(tmp_path / "run")
    before, seeds = facts(killed.evaluations), runs_in(killed.remembered)
    found = search(project, tmp_path / "run", runner=runner)
    assert [each for each in facts(found.evaluations) if each["number"] in {old["number"] for old in before}] == before
    assert [e.number for e in found.evaluations] == list(range(FIELDS["trials"]))
    assert len({e.job.name for e in found.evaluations}) == FIELDS["trials"]
    roles = [sorted(e.role.partition(" ")[0] for e in r.evaluations) for r in (found, undisturbed)]
    assert roles[0] == roles[1]
    assert all(e.status != "failed" for e in found.evaluations)
    runs = runs_in(found.remembered)
    for number, own in seeds.items():
        assert [run.seconds for run in runs[number]][: len(own)] == [run.seconds for run in own]
    # A member's other seed, and its ancestors': each once.
    assert all([(run.seed, run.status) for run in own] == [(6, "done")] for own in runs.values())
    assert {e.number for e in found.front.points} <= runs.keys()
    assert all("test_accuracy" in run.metrics for e in found.front.points for run in runs[e.number])
