"""What a new search does without being asked: controls, a descent, the sampler, other seeds for its front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_project
import yaml
from test_identity import Heard, as_of_version_0_1

from autopeft.cli import planning
from autopeft.cli.overriding import with_overrides
from autopeft.engine.settings import EARLIER
from autopeft.experiment import LEAST_TRIALS, Experiment
from autopeft.launch import launch
from autopeft.result import SearchResult
from autopeft.searching.controls import DEFAULT
from autopeft.session import Session

pytestmark = pytest.mark.usefixtures("one_setup")
BESIDE = ("controls", "descent", "confirm")


def experiment(folder: Path, **changes: Any) -> Experiment:
    """Of a user who says nothing of what a search does beside its sampler."""
    fields = {name: value for name, value in tiny_project.experiment(folder).items() if name not in BESIDE}
    return Experiment.of({**fields, **changes}, "test")


def on(asked: Experiment) -> tuple[bool, bool, bool]:
    """Whether it has controls, a descent, a confirmation."""
    return bool(asked.controls.names), asked.descent is not None, asked.confirm.on


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trials": LEAST_TRIALS}, (True, True, True)),
        ({"trials": None, "time_limit": "1m"}, (True, True, True)),
        ({"trials": LEAST_TRIALS - 1}, (False, False, True)),
        ({"trials": 2, "controls": "default", "descent": "default"}, (True, True, True)),
        ({"trials": 20, "sampler": {"name": "given", "points": [{"x": 1}]}}, (False, False, True)),
        ({"trials": 20, "sampler": {"name": "given", "points": [{"x": 1}]}, "descent": {}}, (False, True, True)),
        *[({"trials": 20, **dict.fromkeys(BESIDE, off)}, (False, False, False)) for off in (None, False, "none")],
    ],
)
def test_what_is_on(changes: dict[str, Any], expected: tuple[bool, bool, bool], project: Path) -> None:
    asked = experiment(project, **changes)
    assert on(asked) == expected
    # A run folder's file says all of it.
    written = asked.resolved()
    assert set(BESIDE) < written.keys()
    assert Experiment.of(written, "again").resolved() == written


def test_a_longer_search_has_them_where_nothing_is_said(project: Path) -> None:
    assert on(with_overrides(experiment(project, trials=2), 20, None, None)) == (True, True, True)
    said = experiment(project, trials=2, descent="none")
    assert on(with_overrides(said, 20, None, None)) == (True, False, True)
    assert experiment(project).controls.share == pytest.approx(1 / 3)
    assert experiment(project, trials=20).controls.names == DEFAULT


@pytest.fixture(scope="module")
def result(project: Path) -> SearchResult:
    found = launch(experiment(project, trials=LEAST_TRIALS), project / "run", Heard())
    assert len(found.evaluations) == LEAST_TRIALS
    return found


def test_a_new_search_has_all_four_phases(project: Path, result: SearchResult) -> None:
    roles = [e.role.split()[0] if e.role else "sampler" for e in result.evaluations]
    assert roles == ["control"] + ["large"] * 3 + ["healed"] * 2 + ["sampler"] * 4
    assert result.front.verdict.confirmed
    assert result.finished
    facts = planning.plan(Session(experiment(project, trials=LEAST_TRIALS)), samples=10)
    phases = {phase["name"]: phase for phase in facts["phases"]}
    counts = {name: phase["trainings"] for name, phase in phases.items()}
    assert counts == {"controls": 1, "large hybrid": 3, "healings": 2, "sampler": 4, "confirmations": None}
    before = sum(phase["seconds"] for name, phase in phases.items() if name != "confirmations")
    assert facts["seconds"] == pytest.approx(before * 1.25)


def test_it_goes_on_with_what_it_began_with(project: Path, result: SearchResult) -> None:
    """Also where the user's file, or what it amounts to for so many trials, says another thing by now."""
    fewer = launch(experiment(project, trials=4), result.run_dir, Heard())
    assert fewer.evaluations == result.evaluations
    assert on(fewer.experiment) == (True, True, True)


def _before_there_was_a_descent(run: Path) -> None:
    file = run / "experiment.yaml"
    fields = yaml.safe_load(file.read_text())
    assert fields.pop("descent") == "none"
    file.write_text(yaml.safe_dump(fields))


def _of_version_0_1(run: Path) -> None:
    as_of_version_0_1(run)
    file = run / "experiment.yaml"
    fields = yaml.safe_load(file.read_text())
    for name in EARLIER:
        del fields["training"][name]
    file.write_text(yaml.safe_dump({name: value for name, value in fields.items() if name not in BESIDE}))


@pytest.mark.parametrize("older", [_before_there_was_a_descent, _of_version_0_1])
def test_an_older_search_goes_on_without(older: Callable[[Path], None], project: Path, tmp_path: Path) -> None:
    off = dict.fromkeys(BESIDE, "none")
    began = launch(experiment(project, trials=2, **off), tmp_path / "run", Heard()).evaluations
    older(tmp_path / "run")
    assert on(SearchResult.open(tmp_path / "run").experiment) == (False, False, False)
    found = launch(experiment(project, trials=LEAST_TRIALS + 1), tmp_path / "run", Heard())
    assert found.evaluations[:2] == began
    assert Counter(e.role for e in found.evaluations) == {"": LEAST_TRIALS + 1}
    assert not found.front.verdict.confirmed
    assert on(SearchResult.open(tmp_path / "run").experiment) == (False, False, False)


def test_later_defaults_are_those_that_the_search_began_with(project: Path, tmp_path: Path) -> None:
    off = dict.fromkeys(BESIDE, "none")
    began = launch(experiment(project, trials=2, **off), tmp_path / "run", Heard()).evaluations
    _of_version_0_1(tmp_path / "run")
    said = experiment(project, trials=3, **off).resolved()
    for name in EARLIER:
        del said["training"][name]
    del said["space"]
    silent = Experiment.of(said, "test")
    assert (silent.training.head, silent.training.method_rates) == ("probe", "usual")
    assert with_overrides(silent, 4, None, None).training.model_fields_set == set(said["training"])
    found = launch(silent, tmp_path / "run", Heard())
    assert found.evaluations[:2] == began
    assert (found.experiment.training.head, found.experiment.training.method_rates) == ("drawn", "shared")
    assert (silent.space, found.experiment.space) == ("hybrid_wide", "hybrid")


def test_nothing_that_ended_is_not_confirmed(project: Path, tmp_path: Path) -> None:
    heard = Heard()
    found = launch(experiment(project, trials=None, time_limit=1e-6), tmp_path / "run", heard)
    assert heard.remarks == ["no candidate has come to its end, so there is no front to confirm"]
    assert not found.evaluations
