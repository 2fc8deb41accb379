"""The fault matrix names real tests: every cell of `tests/FAULTS.md` is a test that is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MATRIX = HERE / "FAULTS.md"
_CELL = re.compile(r"`(test_\w+)\.py::(test_\w+)`(?: \(slow\))?")
_ROWS = [line for line in MATRIX.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]


@cache
def known_tests(file: str) -> dict[str, bool]:
    """The tests of a file, and whether each is slow."""
    tree = ast.parse((HERE / f"{file}.py").read_text(encoding="utf-8"))
    whole = any("pytestmark" in ast.dump(node) and "slow" in ast.dump(node) for node in tree.body)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {f.name: whole or any("attr='slow'" in ast.dump(d) for d in f.decorator_list) for f in functions}


def test_the_matrix_is_there() -> None:
    assert sum(bool(_CELL.search(row)) for row in _ROWS) > 50


@pytest.mark.parametrize("row", [r for r in _ROWS if "::" in r], ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_cell_is_a_test(row: str) -> None:
    cells = list(_CELL.finditer(row))
    assert len(cells) == row.count("::"), "a test is written `test_file.py::test_name`, and `(slow)` after it if it is"
    for cell in cells:
        known = known_tests(cell[1])
        assert cell[2] in known, f"{cell[1]}.py has no test {cell[2]}"
        assert known[cell[2]] == cell[0].endswith("(slow)"), f"{cell[2]}: say (slow) where it is, and only there"
