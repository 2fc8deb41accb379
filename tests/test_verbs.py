"""What holds of every verb: its help, its plug-ins, and what it says of another thing than it takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_cli import autopeft
from test_words import PAGES
from tiny_project import search, write_experiment
from typer.main import get_command

from autopeft.cli.app import app
from autopeft.cli.options import _use_plugins

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
