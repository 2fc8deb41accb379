"""Instructions from installed libraries: what a row is, and that it is the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import AutopeftError
from autopeft.formats import Conversation
from autopeft.tasks import TaskData, task_from

CODE = '''
class Thing:
    def method_{i}(self, value: int, other=None) -> str:
        """Text {i} of the {kind} kind,
        on two lines.

        More."""

    def _private_{i}(self, value: int, other=None) -> str:
        """A text of what is not public."""


async def later_{i}(value, *more, key=1, **others):
    """Text {i} of what comes later in {kind}."""


def silent_{i}(value, other, and_another=None):
    pass


def nameless_{i}(value, other, and_another=None):
    """A text of {kind} that does not end as sentences do"""


def long_{i}(value="{long}"):
    """A text of {kind} whose signature is too long."""
'''


@pytest.fixture(autouse=True)
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages on the import path, and an empty cache."""
    for library in ("gamma_toy", "delta_toy"):
        folder = tmp_path / "libraries" / library
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
        texts = [CODE.format(i=i, kind=library[:5], long="x" * 200) for i in range(20)]
        (folder / "code.py").write_text("\n".join(texts))
    monkeypatch.syspath_prepend(str(tmp_path / "libraries"))
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "cache"))


def loaded(**fields: object) -> TaskData:
    spec = {"name": "write_docstrings", "libraries": ["gamma_toy", "delta_toy"], "per_library": 30}
    return task_from({**spec, **fields}).load()


def test_a_row_asks_for_what_is_said_of_a_public_function() -> None:
    data = loaded()
    rows = [Conversation.from_json(text) for part in (data.train, data.validation, data.test) for text in part.first]
    assert (data.readout.name, len(rows)) == ("causal_lm", 60)
    pairs = {(row.turns[0].content, row.turns[1].content) for row in rows}
    asked = "Write the docstring of this Python function: "
    head = f"{asked}def method_{{}}(self, value: int, other=None) -> str"
    other = f"{asked}def later_{{}}(value, *more, key=1, **others)"
    assert all(not row.turns[0].scored and row.turns[1].scored for row in rows)
    possible = {
        pair
        for i in range(20)
        for kind in ("gamma", "delta")
        for pair in (
            (head.format(i), f"Text {i} of the {kind} kind, on two lines."),
            (other.format(i), f"Text {i} of what comes later in {kind}."),
        )
    }
    assert pairs <= possible
    assert len(pairs) == 60


def test_no_function_stands_in_two_splits_and_all_is_the_same_again() -> None:
    data = loaded()
    names = [{text.split("def ")[1].split("(")[0] for text in part.first} for part in (data.train, data.test)]
    assert names[0]
    assert names[1]
    assert not names[0] & names[1]
    assert loaded() == data
    assert loaded(seed=1).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"per_library": 50}, "library 'gamma_toy' has only 40 fitting texts, 50 are wanted; lower 'per_library'"),
        ({"libraries": []}, "at least one library"),
        ({"libraries": ["os.path"]}, "'os.path' is no top-level import name"),
        ({"libraries": ["no_such_library"]}, "library 'no_such_library' is not installed"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(fields: dict[str, object], words: str) -> None:
    with pytest.raises(AutopeftError, match="task") as caught:
        loaded(**fields)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
