"""A search that begins with what another one found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_project import experiment, not_measured
from typer.testing import CliRunner

import autopeft
from autopeft.cli.app import app
from autopeft.errors import AutopeftError
from autopeft.result import SearchResult
from autopeft.searching.study import Study
from autopeft.searching.warm_start import FIRST, kept_prior, prior_of, prior_text
from autopeft.session import Session


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search."""
    folder = tmp_path_factory.mktemp("other")
    autopeft.search(out=folder / "run", quiet=True, **experiment(folder, trials=5))
    return folder


def searched(other: Path, out: Path, **changes: Any) -> SearchResult:
    # One at a time: what runs beside a candidate when it is asked for counts for the next proposal.
    runner = {"name": "in_process", "cpus": 1, "pack": 1}
    fields = experiment(other, sampler={"name": "known_cost", "startup": 4}, runner=runner, **changes)
    return autopeft.search(out=out, quiet=True, **fields)


def test_the_other_front_comes_first(other: Path, tmp_path: Path) -> None:
    before = SearchResult.open(other / "run")
    result = searched(other, tmp_path / "run", warm_start=str(other / "run"), trials=6)
    front = [e.key for e in before.front.points][:FIRST]
    assert [e.key for e in result.evaluations][: len(front)] == front
    assert len({e.key for e in result.evaluations}) == 6


@not_measured()
def test_a_resumed_search_has_the_prior_that_it_began_with(other: Path, tmp_path: Path) -> None:
    """The other folder goes on meanwhile; what was kept at the start counts."""
    start = str(other / "run")
    whole = searched(other, tmp_path / "whole", warm_start=start, trials=6)
    searched(other, tmp_path / "halves", warm_start=start, trials=3)
    autopeft.search(out=other / "run", quiet=True, **experiment(other, trials=7))
    halves = searched(other, tmp_path / "halves", warm_start=start, trials=6)
    assert [e.key for e in halves.evaluations] == [e.key for e in whole.evaluations]


def test_a_prior_is_the_finished_candidates_with_their_scores(other: Path) -> None:
    evaluations, space = Study.read(other / "run"), Session(SearchResult.open(other / "run").experiment).space
    prior = prior_of(other / "run", space)
    assert [space.decode(p).key for p in prior.points] == [e.key for e in evaluations if e.status == "done"]
    assert list(prior.scores) == [e.metrics["accuracy"] for e in evaluations if e.status == "done"]


def test_a_prior_reads_back(other: Path, tmp_path: Path) -> None:
    space = Session(SearchResult.open(other / "run").experiment).space
    prior, file = prior_of(other / "run", space), tmp_path / "prior.json"
    file.write_text(prior_text(prior))
    assert kept_prior(file, space) == prior


@pytest.mark.parametrize(
    "change",
    [
        {"points": [{"L00.lora.rank": 1}]},
        {"points": [7]},
        {"points": None},
        {"scores": [0.5, None]},
        {"scores": []},
        {"scores": "0.5"},
        {"front": [{"x": 1}]},
    ],
)
def test_a_prior_that_was_edited_is_refused(change: dict, other: Path, tmp_path: Path) -> None:
    space, file = Session(SearchResult.open(other / "run").experiment).space, tmp_path / "prior.json"
    file.write_text(json.dumps(json.loads(prior_text(prior_of(other / "run", space))) | change))
    with pytest.raises(AutopeftError) as caught:
        kept_prior(file, space)
    assert "prior.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere", "no study here"),
        ("space", "another space (its blocks differ)"),
    ],
)
def test_what_cannot_serve_is_refused(other: Path, tmp_path: Path, given: str, said: str) -> None:
    changes = {"space": "lora_ranks"} if given == "space" else {}
    run = tmp_path / "nowhere" if given == "nowhere" else other / "run"
    with pytest.raises(AutopeftError) as error:
        searched(other, tmp_path / "run", warm_start=str(run), **changes)
    assert said in str(error.value)
    assert not (tmp_path / "run" / "trials.csv").exists()


def test_the_command_line(other: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(experiment(other, trials=2)))
    arguments = ["search", str(file), "--out", str(tmp_path / "run"), "--warm-start", str(other / "run"), "--quiet"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert SearchResult.open(tmp_path / "run").experiment.warm_start == str(other / "run")
