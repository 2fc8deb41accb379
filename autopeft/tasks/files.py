"""Your own labelled texts, in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import field_validator

from autopeft.doors import door
from autopeft.errors import AutopeftError, suggest
from autopeft.tasks._base import Task
from autopeft.tasks._json import json_file, json_lines
from autopeft.tasks._rows import Raw, Rows, collect, one_or_two
from autopeft.tasks._tables import csv_rows, parquet_rows, tsv_rows

Records = Iterator[tuple[int, dict[str, Any]]]


class Files(Task):
    """Splits in .jsonl (an object per line), .json (that, or one list), .csv, .tsv (no quoting) or .parquet files.

    Text files are in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    `text`: one column's name, or two for pairs. `regression`: None infers it from train's labels (numbers, not all
    whole). `1`, `1.0` and `+1`, or `True` and `true`, are one class. Relative paths start at the current directory.
    """

    name: ClassVar[str] = "files"
    description: ClassVar[str] = "your own labelled texts: jsonl, csv, tsv or parquet files"

    train: str
    validation: str | None = None
    test: str | None = None
    text: str | list[str]
    label: str = "label"
    regression: bool | None = None

    _columns = field_validator("text", mode="before")(one_or_two)

    @field_validator("train", "validation", "test")
    @classmethod
    def _known_suffix(cls, value: str | None) -> str | None:
        if value is not None and Path(value).suffix.lower() not in _READERS:
            raise ValueError(f"'{Path(value).name}' is of no known format; known: {', '.join(_READERS)}")
        return value

    def _read(self) -> Raw:
        train = self._rows(self.train)
        validation = None if self.validation is None else self._rows(self.validation)
        test = None if self.test is None else self._rows(self.test)
        return Raw(train, validation, test, regression=self.regression)

    def _rows(self, name: str) -> Rows:
        path = Path(name)
        with door(path):  # a pipe or a device would be read without end
            there, exists = path.is_file(), path.exists()
        if not there:
            raise AutopeftError(f"{path}: {'is not a file' if exists else 'no such file'}; {_beside(path)}")
        suffix = path.suffix.lower()
        columns = [self.text] if isinstance(self.text, str) else self.text
        mark = ", row " if suffix == ".parquet" else ":"
        return collect(_READERS[suffix](path, columns, self.label), columns, self.label, str(path), mark)


def _beside(path: Path) -> str:
    """What the folder holds instead."""
    with door(path.parent):
        if not path.parent.is_dir():
            return f"there is no folder {path.parent} either; relative paths start at {Path.cwd()}"
        others = [other for other in path.parent.iterdir() if other.suffix.lower() in _READERS]
        names = [other.name for other in others if other.is_file()]
    return suggest(path.name, names)


_READERS: dict[str, Callable[[Path, Sequence[str], str], Records]] = {
    ".jsonl": json_lines,
    ".json": json_file,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
}
