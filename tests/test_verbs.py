"""What holds of every verb: its help, its plug-ins, and what it says of another thing than it takes."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from test_cli import autopeft
from test_words import PAGES
from tiny_project import search, write_experiment
from typer.main import get_command

from autopeft.cli.app import app
from autopeft.cli.options import _use_plugins
from autopeft.searching.identity import FORMAT
from autopeft.searching.study_checks import sealed, unsealed

VERBS = get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_plug_ins(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [option] = [p for p in VERBS[verb].params if "--plugins" in p.opts]
    assert option.name == "plugins"
    assert option.callback.__wrapped__ is _use_plugins
    # It may be given several times, and what is no folder is told.
    assert option.multiple


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_reads_at_80_columns(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = autopeft(capsys, *([verb] if verb else []), "--help")
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    # typer names what a verb takes as `{FOLDER}`, which looks like something that was not filled in.
    assert not set("{}") & set(out)
    if verb:
        assert "<bool>" not in out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_has_a_gap_that_was_not_filled(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    assert not re.findall(r".*[{}].*", text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    search(folder, folder / "run", {"trials": 2})
    write_experiment(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("search", "."), r"experiment '\.': is a folder; give a YAML file"),
        (("plan", "run"), "experiment 'run': is a folder; 'autopeft search run/experiment.yaml --out run' goes on"),
        (("front", "tiny.yaml"), r"tiny\.yaml: not the folder of a search \(it is a file\)"),
        (("evaluate", "tiny.yaml"), r"tiny\.yaml: not a folder that 'autopeft export' wrote \(it is a file\)"),
        (("evaluate", "run"), r"\(it has no hybrid\.json\)"),
        (("search", "tiny.yaml", "--workers", "2"), "--workers: runner 'in_process' has none; --set runner=ray"),
        (("search", "tiny.yaml", "--time-limit", "soon"), "time_limit: expected seconds, or a time like"),
        (("search", "tiny.yaml", "--set", "budget.trainable_params=-5"), r"must be at least 1; .* \(given: -5\)"),
        (("search", "tiny.yaml", "--set", "budget.trainable_params=-5%"), r"must be at least 1; .* \(given: '-5%'\)"),
        (("show", "run", "99"), "no candidate has the number 99: those that have ended go up to 1; 'autopeft front"),
        (("export", "run", "--pick", "#99"), "no candidate has the number 99"),
        (("export", "run", "--pick", "nosuch"), "no candidate 'nosuch'; give 'best', 'knee', or a number or key"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_mistake_is_one_line_with_a_remedy(
    words: tuple[str, ...],
    said: str,
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project)
    status, out, err = autopeft(capsys, *words)
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("autopeft: error: ")
    assert re.search(said, last), last
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--trials", "--workers"])
def test_a_number_below_one_is_told_at_once(option: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = autopeft(capsys, "search", str(project / "tiny.yaml"), option, "0")
    assert status == 2
    assert f"Invalid value for '{option}'" in err
    assert "loading" not in err


def test_a_run_of_a_newer_version_is_told(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(project / "run", run)
    with closing(sqlite3.connect(run / "study.db")) as study, study:
        where = "from study_user_attributes where key = 'header'"
        [(text,)] = study.execute(f"select value_json {where}")
        header = {**unsealed(json.loads(text), run, "its header"), "format": FORMAT + 1}
        changed = "update study_user_attributes set value_json = ? where key = 'header'"
        study.execute(changed, [json.dumps(sealed(header))])
    said = f"was begun by a newer autopeft (format {FORMAT + 1}, here {FORMAT}); use that one for it"
    status, _, err = autopeft(capsys, "front", str(run))
    assert (status, said in err, err.count("\n")) == (2, True, 1)
    shutil.copy(project / "run" / "study.db", run)
    with (run / "experiment.yaml").open("a") as file:
        file.write("of_the_future: 3\n")
    status, _, err = autopeft(capsys, "front", str(run))
    assert (status, "of_the_future: unknown key; " in err, err.count("\n")) == (2, True, 1)
    assert "if a newer autopeft began this search, use that one for it" in err


def test_a_folder_that_cannot_be_written_is_told(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    # Permissions do not bind who is root: a file in the place of a folder binds everybody.
    (project / "taken").write_text("")
    for words in (
        ("compare-runs", "run", "run", "--out", "taken/x"),
        ("export", "run", "--to", "taken/x"),
        ("report", "run", "--to", "taken/x.html"),
        ("search", "tiny.yaml", "--out", "taken/x"),
        ("compare", "tiny.yaml", "--out", "taken/x"),
    ):
        status, _, err = autopeft(capsys, *words)
        last = err.splitlines()[-1]
        assert (status, last.startswith("autopeft: error: ")) == (2, True), (words, err)
        assert "taken" in last, words
        assert "; " in last, f"{words}: no remedy: {last}"
