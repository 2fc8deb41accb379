"""Killed in any phase of a search that has them all, it goes on as if it had not been.

Controls, a descent, a sampler, other seeds for trained and for healed members, test scores, the files of the end.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_project
from kill_points import PHASES, ended
from test_resumed import assert_same

from autopeft.result import SearchResult
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

pytestmark = pytest.mark.usefixtures("one_setup")


def search(project: Path, out: Path, **changes: Any) -> SearchResult:
    return tiny_project.search(project, out, FIELDS, **changes)


@pytest.fixture(scope="module")
def undisturbed(project: Path) -> SearchResult:
    return search(project, project / "undisturbed")


def test_the_search_has_all_phases(undisturbed: SearchResult) -> None:
    roles = [e.role.partition(" ")[0] for e in undisturbed.evaluations]
    assert roles == 3 * ["control"] + 3 * ["large"] + 4 * ["healed"] + 3 * [""]
    by_number, runs = {e.number: e for e in undisturbed.evaluations}, runs_in(undisturbed.remembered)
    # Both kinds, and a large hybrid for the healed ones' sake.
    assert {by_number[number].born for number in runs} == {"trained", "healed"}
    assert any(by_number[number].role == "large hybrid" for number in runs)
    assert any(e.born == "healed" for e in undisturbed.front.points)


#: The rest takes long.
QUICK = ("a cut is written", "a healing with another seed, its epoch", "weights that nobody needs are going")


@pytest.mark.parametrize("point", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PHASES])
def test_killed_here_it_goes_on_the_same(point: str, project: Path, undisturbed: SearchResult, tmp_path: Path) -> None:
    assert ended(project, tmp_path / "run", point, signal.SIGKILL, FIELDS) == -signal.SIGKILL
    assert_same(search(project, tmp_path / "run"), undisturbed)
