"""What a docstring is of: which texts are taken, with which labels, and that they are the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import AutopeftError
from autopeft.tasks import TaskData, task_from

CODE = '''
"""A module of {library}, number {i}.

More of it."""

class Thing:
    """A class of {library}, number {i}."""

    def method(self):
        """A function of {library}, number {i},
        on two lines."""

    async def later(self):
        """Said of two kinds in {library}."""

    def short(self):
        """Too short."""


class Other:
    """Said of two kinds in {library}."""
'''


@pytest.fixture(autouse=True)
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages on the import path, and an empty cache."""
    for library in ("epsilon_toy", "zeta_toy"):
        folder = tmp_path / "libraries" / library
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
        for i in range(12):
            (folder / f"code_{i}.py").write_text(CODE.format(i=i, library=library))
        (folder / "bare.py").write_text(f'"""A module of {library}, without code."""\n')
    monkeypatch.syspath_prepend(str(tmp_path / "libraries"))
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "cache"))


def loaded(**fields: object) -> TaskData:
    spec = {"name": "docstring_kinds", "libraries": ["epsilon_toy", "zeta_toy"], "per_library": 10}
    return task_from({**spec, **fields}).load()


def rows_of(data: TaskData) -> list[tuple[str, str]]:
    parts = (data.train, data.validation, data.test)
    return [
        (text, data.label_names[label]) for part in parts for text, label in zip(part.first, part.labels, strict=True)
    ]


def test_labels_are_what_the_texts_are_of() -> None:
    data = loaded()
    assert data.label_names == ("class", "function", "module")
    rows = rows_of(data)
    assert len(rows) == len(set(rows))
    assert 60 >= len(rows) > 50
    assert all(text.startswith(f"A {kind} of ") for text, kind in rows)
    assert {kind for _, kind in rows} == {"class", "function", "module"}
    assert all(text.endswith(", on two lines.") for text, kind in rows if kind == "function")


def test_the_same_again_from_the_cache_and_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rows_of(loaded())
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert rows_of(loaded()) == first
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "other"))
    assert rows_of(loaded()) == first


def test_a_text_of_two_kinds_is_left_out() -> None:
    """All texts are taken here, of which one in each library is said of a class and of a function."""
    rows = rows_of(loaded(per_library=13))
    assert len(rows) == 2 * (3 * 13 - 2)
    assert not any("two kinds" in text for text, _ in rows)


def test_too_few_texts_are_one_line() -> None:
    with pytest.raises(AutopeftError, match=r"docstring_kinds: library 'epsilon_toy' has only .* lower 'per_library'"):
        loaded(per_library=40)


def test_no_library_twice() -> None:
    with pytest.raises(AutopeftError, match="at least one library is needed, each once"):
        loaded(libraries=["epsilon_toy", "epsilon_toy"])
