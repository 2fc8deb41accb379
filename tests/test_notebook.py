"""The notebook runs from its first cell to its last one, and is kept without outputs."""

from __future__ import annotations

import ast
import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.watching.telling import heard_on

NOTEBOOK = Path(__file__).parents[1] / "experiments" / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def _run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; what a notebook would show below it, or None."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)  # type: ignore[attr-defined]


def test_it_is_kept_without_outputs() -> None:
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    for cell in code:
        ast.parse("".join(cell["source"]))


def test_a_mistake_is_the_line_that_was_run_and_the_message() -> None:
    """IPython asks an exception for what it shows in the place of a traceback."""
    with pytest.raises(AutopeftError) as caught:
        Hybrid.from_layers(2, {9: []})
    line, message = caught.value._render_traceback_()
    assert re.fullmatch(r"line \d+: Hybrid\.from_layers\(2, \{9: \[\]\}\)", line)
    assert message.endswith(f": {caught.value}")
    assert AutopeftError("said")._render_traceback_() == ["\x1b[31mAutopeftError\x1b[0m: said"]


def test_a_notebook_has_lines_of_text_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows standard error as a mistake, and what rich displays there as a box a line."""
    heard_on().print("in a pipe")
    # What IPython's kernel puts there, and rich looks for.
    monkeypatch.setattr("builtins.get_ipython", type("ZMQInteractiveShell", (), {}), raising=False)
    out = StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdout", out)
    assert not heard_on().is_terminal
    heard_on().print("in a notebook, [bold]with marks[/]")
    assert (out.getvalue(), capsys.readouterr().err) == ("in a notebook, with marks\n", "in a pipe\n")


@pytest.mark.slow
def test_it_runs_to_its_end() -> None:
    names: dict[str, Any] = {}
    shown = [_run("".join(cell["source"]), names) for cell in CELLS if cell["cell_type"] == "code"]
    for value in shown:
        if hasattr(value, "_repr_html_"):
            assert "<" in value._repr_html_()
    assert names["result"].front.points
    assert names["page"].read_text().startswith("<!doctype html>")
    assert names["facts"]["key"] == names["best"].key
    measured = next(value for value in shown if isinstance(value, dict))
    assert measured["test_accuracy"] == pytest.approx(names["facts"]["scores"]["test_accuracy"]["searched"])
