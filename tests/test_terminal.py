"""What verbs write to a terminal of 80 columns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_terminal import in_terminal

VERBS = (
    *("search", "watch", "plan", "front", "show", "report", "explain", "compare", "train", "export", "evaluate"),
    *("predict", "ui", "compare-runs", "list"),
)


@pytest.mark.parametrize("columns", [40, 80])
def test_an_error_breaks_between_words(columns: int, tmp_path: Path) -> None:
    status, lines = in_terminal("front", "a/folder/that/is/not/there", columns=columns, folder=tmp_path)
    assert status == 2
    assert len(lines) > 1
    assert max(map(len, lines)) <= columns
    assert " ".join(lines) == (
        "autopeft: error: a/folder/that/is/not/there: not the folder of a search (there is no such folder); "
        "`autopeft search` says where it writes"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_and_names_values_alone(verb: str) -> None:
    status, lines = in_terminal(verb, "--help")
    assert status == 0
    assert max(map(len, lines)) <= 80
    named = [line for line in lines if re.match(r"│ +--", line)]
    assert named
    # That of --help itself is typer's.
    assert not [line for line in named if re.search(r" <\w+", line) and "--help" not in line], "a type for a name"
