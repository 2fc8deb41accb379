"""A candidate's number is the same everywhere, and stands for its key."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import autopeft
from test_front import STAIRS, TWO, evaluation, front_of
from tiny_project import search

from autopeft.errors import AutopeftError
from autopeft.reporting.candidate import chosen
from autopeft.result import SearchResult
from autopeft.searching.front import ParetoFront


@pytest.mark.parametrize("which", ["2", "#2", " #2", "02", 2])
def test_a_number_is_a_candidate(which: str | int) -> None:
    front = front_of(STAIRS)
    assert front.pick(which).number == 2
    assert chosen(front, front.evaluations, which).number == 2


def test_digits_that_no_candidate_has_may_begin_a_key() -> None:
    front = front_of([(i / 80, i) for i in range(40)])
    keys = [e.key for e in front.done]
    begins = next(k[:2] for k in keys if re.match("[4-9][0-9]", k) and sum(other[:2] == k[:2] for other in keys) == 1)
    assert front.pick(begins).key.startswith(begins)
    assert chosen(front, front.evaluations, begins).key.startswith(begins)
    with pytest.raises(AutopeftError, match=f"number {begins}: those that have ended go up to 39; 'autopeft front RUN"):
        front.pick(f"#{begins}")


def test_digits_that_are_a_number_and_begin_a_key() -> None:
    known = [evaluation(i, 0.5, 10 + i) for i in range(200)]
    digits = next(e.key[:6] for e in known if re.match("[1-9][0-9]{5}", e.key))
    front = ParetoFront([*known, replace(evaluation(200, 0.4, 5), number=int(digits))], TWO)
    for pick in (front.pick, lambda which: chosen(front, front.evaluations, which)):
        said = f"'{digits}' is the number of #{digits} [0-9a-f]+, and key {digits}[0-9a-f]+ begins so; give '#{digits}'"
        with pytest.raises(AutopeftError, match=said):
            pick(digits)
        assert pick(f"#{digits}").number == int(digits)
    # What is shorter than any key of a table is the number.
    assert front.pick("1").number == 1


def test_what_does_not_count_says_why() -> None:
    known = [evaluation(i, *v) for i, v in enumerate(STAIRS)]
    known += [
        evaluation(6, 0.9, 5, status="failed", error="out of memory"),
        evaluation(7, 0.9, 5, status="stopped"),
        evaluation(8, 0.9, 900),
        evaluation(9, float("nan"), 5),
    ]
    front = ParetoFront(known, TWO, {"trainable_params": 500})
    for number, why in (
        (6, r"failed \(out of memory\)"),
        (7, "was stopped early"),
        (8, r"is over the limits \(trainable_params 900 of 500\)"),
        (9, "has no finite score"),
    ):
        for which in (number, known[number].key):
            with pytest.raises(AutopeftError, match=f"candidate #{number} {known[number].key} {why}; only what"):
                front.pick(which)
        assert chosen(front, front.evaluations, number) is known[number]


def test_a_file_keeps_numbers_and_one_without_has_its_own() -> None:
    front = ParetoFront([replace(e, number=e.number + 10) for e in front_of(STAIRS).done], TWO)
    data = json.loads(json.dumps(front.to_json()))
    assert [e.number for e in ParetoFront.from_json(data).points] == [e.number for e in front.points]
    for point in data["points"]:
        del point["number"]
    assert [e.number for e in ParetoFront.from_json(data).points] == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    folder = tmp_path_factory.mktemp("numbers")
    return search(folder, folder / "run", {"trials": 4})


def test_all_views_say_the_same(run: SearchResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, best = str(run.run_dir), run.front.best()
    name = rf"#{best.number}\s+{best.key[:6]}"
    for words in (["front", folder], ["front", folder, "--layers"], ["front", folder, "--all"]):
        assert re.search(name, autopeft(capsys, *words)[1]), words
    for which in (f"{best.number}", f"#{best.number}", best.key[:6]):
        assert f"Candidate #{best.number} {best.key} of" in autopeft(capsys, "show", folder, which)[1]
        status, out, _ = autopeft(capsys, "export", folder, "--pick", which, "--to", str(tmp_path / "out"))
        assert (status, f"wrote candidate #{best.number} {best.key} to" in out) == (0, True)
    assert json.loads((tmp_path / "out" / "hybrid.json").read_text())["number"] == best.number
    assert f"Candidate #{best.number} of its search, key `{best.key}`" in (tmp_path / "out" / "README.md").read_text()
    for suffix in ("html", "md"):
        page = run.report(tmp_path / f"report.{suffix}", markdown=suffix == "md", explain=False).read_text()
        assert re.search(name, page), suffix
    points = json.loads((run.run_dir / "front.json").read_text())["points"]
    assert [p["number"] for p in points] == [e.number for e in run.front.points]
    assert run.candidate(best.number)["key"] == best.key
    status, _, err = autopeft(capsys, "show", folder, "77")
    assert (status, err.count("\n")) == (2, 1)
