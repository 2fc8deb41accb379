"""Tables for people: short headers, one line a row, and no wider than the terminal."""

from __future__ import annotations

import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from test_cli import autopeft
from test_confirming import OTHERS, SEARCHED, confirmed, seen

from autopeft.candidate import Origin
from autopeft.cli import fronts
from autopeft.cli.listing import KINDS
from autopeft.cli.tables import sentence, show, show_all, show_facts
from autopeft.comparing import rows
from autopeft.comparing.result import Comparison
from autopeft.costs import amount
from autopeft.result import SearchResult
from autopeft.searching.tables import Column, columns
from autopeft.wording import counted, in_bytes, number, with_deviation

ROW: dict[str, Any] = {
    **dict.fromkeys(("status", "reason"), "done"),
    **{"test_accuracy": 0.9123, "test_accuracy_sd": 0.0123, "seeds": 3, "share_of_backbone": 0.0123},
    **dict.fromkeys(("trainable_params", "kept_params", "stored_bytes", "peak_memory_bytes"), 112_345_678),
    **{"seconds_per_epoch": 1.23, "latency_ms": 12.3, "merged_latency_ms": 12.3},
    **{"learning_rate": 0.0056, "at_edge_of_grid": True},
}


def shown(columns: list[Column], width: int) -> list[str]:
    out = Console(file=StringIO(), width=width)
    show(out, "Title", columns)
    return out.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_front_fits_80_columns_with_a_line_a_member() -> None:
    healed = seen(9, 0.60, 4, origin=Origin("parent", "start"), role="healed from parent")
    found = confirmed([*SEARCHED, healed], OTHERS, {0: "lora 1, top half"})
    title, headers, _, *lines, note = shown(columns(found, found.points), 80)
    assert (title.strip(), headers.split()[:6]) == ("Title", ["no.", "key", "accuracy", "test", "params", "pick"])
    assert [line.split()[:2] for line in lines] == [[f"#{e.number}", e.key[:6]] for e in found.points]
    assert max(len(line) for line in (headers, *lines)) <= 80
    assert "0.820±0.020" in lines[-1]
    assert ["healed" in line for line in lines] == [e.number == 9 for e in found.points]
    assert ["control" in line for line in lines] == [e.number == 0 for e in found.points]
    assert note.startswith("not shown: ")
    assert ["best" in line for line in lines] == [e is found.best() for e in found.points]
    # With room nothing is left out, and what a search without controls and seeds has not is no column.
    assert "searched" in shown(columns(found, found.points), 140)[1]
    plain = columns(confirmed(SEARCHED, {}), SEARCHED)
    assert [c.header for c in plain] == ["no.", "key", "accuracy", "params", "pick", "rate", "hybrid in layers"]


@pytest.mark.parametrize(
    ("mean", "sd", "said"),
    [
        (0.8123, 0.0042, "0.812±0.004"),
        (0.82, 0.0, "0.820±0.000"),
        (0.82, 1e-17, "0.820±0.000"),
        (0.01234, 0.00021, "0.0123±0.0002"),
        (23.4567, 1.2, "23.457±1.200"),
        (0.8123, math.nan, "0.8123"),
        (0.8123, None, "0.8123"),
    ],
)
def test_a_mean_has_the_digits_that_its_deviation_leaves(mean: float, sd: float | None, said: str) -> None:
    assert with_deviation(mean, sd) == said


def test_a_comparison_fits_80_columns() -> None:
    many = [{**ROW, "method": name} for name in ("lora", "full_fine_tuning")]
    failed = {**ROW, "method": "warp", "status": "failed", "reason": "no rate of its grid trains: no way at all"}
    _, headers, _, *lines, note = shown(rows.columns([*many, failed], "accuracy"), 80)
    assert headers.split()[:4] == ["method", "test", "accuracy", "trained"]
    assert headers.split()[-1] == "rate"
    assert [line.split()[0] for line in lines] == ["lora", "full_fine_tuning", "warp"]
    assert max(map(len, (headers, *lines))) <= 80
    assert note.startswith("not shown: seeds, kept")
    assert rows.failures([*many, failed]) == ["warp failed: no rate of its grid trains: no way at all"]


@pytest.mark.parametrize(("ended", "said"), [(True, False), (False, True)])
def test_a_front_that_is_not_finished_says_so(
    ended: bool, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = confirmed(SEARCHED, OTHERS)

    class Result(SearchResult):
        front, evaluations, finished = found, SEARCHED, ended  # type: ignore[assignment]
        experiment = type("E", (), {"name": "x", "trials": 40, "trust_remote_code": False})()
        run_dir = tmp_path / "a b"

    monkeypatch.setattr(SearchResult, "open", lambda run: Result(run))
    fronts.show_front(tmp_path, as_json=False)
    text = capsys.readouterr().out
    assert "Trained with other seeds, and not on the front" in text
    assert found.confirmed_off_front[0].key[:6] in text
    command = f"autopeft search '{tmp_path}/a b/experiment.yaml' --out '{tmp_path}/a b'"
    assert (f"Not finished: 4 of 40 candidates. If it is not running now, it goes on with: {command}" in text) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (None, ""),
        (0, "0 B"),
        (1023, "1,023 B"),
        (1536, "1.5 KiB"),
        (1010 * 2**20, "1,010 MiB"),
        (3 * 2**40, "3,072 GiB"),
    ],
)
def test_bytes_are_written_in_one_way(count: int | None, said: str) -> None:
    assert in_bytes(count) == said


def test_a_comparison_shows_in_a_notebook_as_people_read_it(tmp_path: Path) -> None:
    found = Comparison(tmp_path, ("accuracy",), 1_000, (0, 1, 2), "how it came about")
    assert repr(found) == f"Comparison({str(tmp_path)!r}: 0 methods)"
    found.rows = [{**ROW, "method": "lora"}, {"method": "bitfit", "status": "failed", "reason": "<none>"}]
    assert repr(found) == f"Comparison({str(tmp_path)!r}: 2 methods, best lora: test accuracy 0.9123)"
    shown = found._repr_html_()
    assert ">lora</td><td>0.912±0.012</td>" in shown
    assert "<td>107 MiB</td>" in shown
    assert "failed: &lt;none&gt;" in shown
    assert shown.endswith("<p>how it came about</p>")


def test_costs_in_bytes_have_their_unit() -> None:
    assert (amount("stored_bytes", 18_432), amount("training_memory", None)) == ("18 KiB", "")
    assert (amount("trainable_params", 18_432), amount("accuracy", 0.5)) == ("18,432", "0.5000")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, ""), (float("nan"), ""), (0, "0"), (0.0, "0.0000"), (3, "3"), (73_728.0, "73,728"), (0.5, "0.5000"),
        (0.0069, "6.90e-03"), (1234.5678, "1,234.5678"), (176_762_198_573.213, "176,762,198,573"),
    ],
)  # fmt: skip
def test_numbers_have_the_digits_that_say_something(value: float | None, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(("count", "said"), [(1, "1 row"), (0, "0 rows"), (2_000, "2,000 rows"), (0.5, "0.5 rows")])
def test_so_many_of_a_thing(count: float, said: str) -> None:
    assert counted(count, "row") == said


LONG = "a sentence of many words that is longer than a terminal of eighty columns is wide, and then some more of them"


def width_of(text: str) -> int:
    """Columns of the widest line, without what colours it."""
    return max(cell_len(Text.from_ansi(line).plain.rstrip()) for line in text.splitlines())


@pytest.mark.parametrize("kind", [*KINDS])
def test_what_is_known_by_name_fits_a_terminal_and_is_a_line_each_in_a_pipe(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = autopeft(capsys, "list", kind)[1].splitlines()
    for name in ("FORCE_COLOR", "COLUMNS"):
        monkeypatch.setenv(name, "80")
    out = autopeft(capsys, "list", kind)[1]
    assert width_of(out) <= 80
    if kind == "methods":
        # A table: as wide as a terminal in a pipe too, and it says what it leaves out.
        assert max(cell_len(line) for line in lines if not line.startswith("not shown: ")) <= 80
        assert any(line.startswith("not shown: ") for line in lines)
        return
    # Options that all have are said once, at the end.
    names = {line.split()[0] for line in lines if not line.startswith((" ", "all of them"))}
    known = json.loads(autopeft(capsys, "list", kind, "--json")[1])
    assert {entry["name"].split()[0] for entry in known} == names
    for entry in known:
        assert any(" ".join(entry["description"].split()) in line for line in lines), entry["name"]


def test_a_sentence_breaks_at_words_in_a_terminal_and_nowhere_in_a_file() -> None:
    pipe, terminal = (Console(file=StringIO(), width=80, force_terminal=live) for live in (False, True))
    for out in (pipe, terminal):
        sentence(out, LONG)
        show_facts(out, [("a name", LONG), ("", f"  {LONG}")])
    plain, broken = (out.file.getvalue() for out in (pipe, terminal))  # type: ignore[attr-defined]
    assert plain.splitlines() == [LONG, f"a name  {LONG}", f"          {LONG}"]
    assert width_of(broken) <= 80
    assert broken.split() == plain.split()
    # What goes on stands below what it goes on with.
    assert [line[:8].strip() for line in broken.splitlines()[-4:]] == ["a name", "", "", ""]
    assert broken.splitlines()[-1].startswith(" " * 10)


def test_columns_that_do_not_fit_stand_below_with_the_first_one() -> None:
    blocks = [Column(f"block {i}", ["100% (16)", ""]) for i in range(12)]
    out = Console(file=StringIO(), width=80)
    show_all(out, LONG, [Column("layer", ["0", "1"]), *blocks])
    title, *lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert title == LONG
    assert max(map(len, lines)) <= 80
    headers = [line.split("block")[0].strip() for line in lines if "block" in line]
    assert headers == ["layer", "layer"]
    assert [f"block {i}" in "\n".join(lines) for i in range(12)] == [True] * 12
