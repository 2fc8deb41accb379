"""Your own labelled texts, in files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import field_validator

from autopeft.errors import AutopeftError, suggest
from autopeft.tasks._base import Task
from autopeft.tasks._rows import Raw, Rows, collect, one_or_two

Records = Iterator[tuple[int, dict[str, Any]]]


class Files(Task):
    """Splits in .jsonl (or .json, an object per line), .csv, .tsv (no quoting) or .parquet files.

    `text`: one column's name, or two for pairs. `regression`: None infers it from train's labels (numbers, not all
    whole). Relative paths start at the current directory.
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
        suffix = path.suffix.lower()
        if not path.is_file():
            raise AutopeftError(f"{path}: {'is not a file' if path.exists() else 'no such file'}; {_beside(path)}")
        columns = [self.text] if isinstance(self.text, str) else self.text
        mark = ", row " if suffix == ".parquet" else ":"
        try:
            return collect(_READERS[suffix](path), columns, self.label, str(path), mark)
        except (OSError, UnicodeDecodeError) as error:
            raise AutopeftError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _beside(path: Path) -> str:
    """What the folder holds instead."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either; relative paths start at {Path.cwd()}"
    return suggest(path.name, (other.name for other in path.parent.iterdir() if other.suffix.lower() in _READERS))


def _json_lines(path: Path) -> Records:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise AutopeftError(f"{path}:{number}: broken JSON ({error.msg}); one object per line") from error
            if not isinstance(record, dict):
                raise AutopeftError(f"{path}:{number}: no JSON object; one object per line is expected")
            yield number, record


def _csv(path: Path) -> Records:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _table(path, csv.DictReader(file, strict=True))


def _tsv(path: Path) -> Records:
    # Quotes are ordinary characters: tab-separated corpora (GLUE's) hold unpaired ones, which would swallow rows.
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _table(path, csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _table(path: Path, reader: csv.DictReader[str]) -> Records:
    """The reader's rows, each with the number of the line that it ends on."""
    try:
        for record in reader:
            if None in record:
                raise AutopeftError(f"{path}:{reader.line_num}: more cells than the header has; quote the separators")
            yield reader.line_num, record
    except csv.Error as error:
        raise AutopeftError(f"{path}:{reader.reader.line_num}: broken row ({error})") from error


def _parquet(path: Path) -> Records:
    import pyarrow
    from pyarrow import parquet

    try:
        records = parquet.ParquetFile(path).read().to_pylist()
    except pyarrow.ArrowException as error:
        raise AutopeftError(f"{path}: no readable parquet ({str(error).splitlines()[0]})") from error
    yield from enumerate(records, 1)


_READERS: dict[str, Callable[[Path], Records]] = {
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
