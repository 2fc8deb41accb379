"""Ended anywhere, a search goes on as if it had not been: the same candidates, scores and decisions, to the bit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_project
from kill_points import POINTS, Killed, arm, ended

from autopeft.candidate import Evaluation
from autopeft.result import SearchResult

#: Packs of three, then of one; a rule that stops; a sampler whose proposals depend on all that came before.
FIELDS = {
    "trials": 7,
    "runner": {"name": "in_process", "cpus": 1, "pack": 3},
    "sampler": {"name": "known_cost", "startup": 3, "seed": 3},
    "stopping": {"name": "halving", "startup": 2},
    "training": {"epochs": 3, "batch_size": 16, "max_length": 16, "precision": "fp32", "learning_rate": 0.01},
}


pytestmark = pytest.mark.usefixtures("one_setup")


def search(project: Path, out: Path, **changes: Any) -> SearchResult:
    return tiny_project.search(project, out, FIELDS, **changes)


def facts(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """Everything but the time that it took, and test scores of what was on the front for a while."""
    return [
        {k: v for k, v in e.to_json().items() if k != "seconds"}
        | {"metrics": {k: v for k, v in e.metrics.items() if not k.startswith("test_")}}
        for e in evaluations
    ]


@pytest.fixture(scope="module")
def undisturbed(project: Path) -> SearchResult:
    return search(project, project / "undisturbed")


def assert_same(found: SearchResult, undisturbed: SearchResult, but_weights: bool = False) -> None:
    """The same results and files; `but_weights` where the disk may have had no room for some of them."""
    assert facts(found.evaluations) == facts(undisturbed.evaluations)
    assert found.front.to_json() == undisturbed.front.to_json()
    names = {p.relative_to(undisturbed.run_dir) for p in undisturbed.run_dir.rglob("*")}
    found_names = {p.relative_to(found.run_dir) for p in found.run_dir.rglob("*")}
    lacks = {name for name in names - found_names if not (but_weights and name.suffix == ".safetensors")}
    assert (found_names - names, lacks) == (set(), set())
    for name in ("front.json", "engine.json"):
        assert (found.run_dir / name).read_bytes() == (undisturbed.run_dir / name).read_bytes()
    for path in found.run_dir.glob("weights/*"):
        assert path.read_bytes() == (undisturbed.run_dir / "weights" / path.name).read_bytes()


def test_the_search_has_packs_and_stops(undisturbed: SearchResult) -> None:
    assert {e.status for e in undisturbed.evaluations} == {"done", "stopped"}
    assert len({e.key for e in undisturbed.evaluations}) == 7


#: The rest needs a process each.
QUICK = (
    "the first pack is being stored",
    "the second pack, its second epoch",
    "the second pack is being told",
)


@pytest.mark.parametrize("point", QUICK)
def test_ended_here_it_goes_on_the_same(
    point: str, project: Path, undisturbed: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patched:
        arm(point, kill, patched)
        with pytest.raises(Killed):
            search(project, tmp_path / "run")
    assert_same(search(project, tmp_path / "run"), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_here_it_goes_on_the_same(point: str, project: Path, undisturbed: SearchResult, tmp_path: Path) -> None:
    assert ended(project, tmp_path / "run", point, signal.SIGKILL, FIELDS) == -signal.SIGKILL
    assert_same(search(project, tmp_path / "run"), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("point", [*QUICK, "the second pack is half asked for", "the second pack is told"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_here_it_goes_on_the_same(
    number: int, point: str, project: Path, undisturbed: SearchResult, tmp_path: Path
) -> None:
    assert ended(project, tmp_path / "run", point, number, FIELDS) in (130, 143, -signal.SIGTERM)
    assert_same(search(project, tmp_path / "run"), undisturbed)


@pytest.mark.slow
def test_killed_again_and_again(project: Path, undisturbed: SearchResult, tmp_path: Path) -> None:
    for point in ("the first pack is stored", "the first pack, its second epoch", "the first pack is being told"):
        assert ended(project, tmp_path / "run", point, signal.SIGKILL, FIELDS) == -signal.SIGKILL
        tmp_path.joinpath("run.reached").unlink()
    assert_same(search(project, tmp_path / "run"), undisturbed)
