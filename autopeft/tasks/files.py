"""Your own texts in files: labelled ones, or rows that a language model learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from autopeft.cells import text_cell
from autopeft.doors import door
from autopeft.errors import AutopeftError, suggest
from autopeft.readouts import READOUTS, Reader, Readout, tagged
from autopeft.tasks._formatted import Formatted
from autopeft.tasks._json import json_file, json_lines, json_names
from autopeft.tasks._lines import lines
from autopeft.tasks._rows import Raw, Rows, collect
from autopeft.tasks._tables import csv_rows, parquet_names, parquet_rows, table_names, tsv_rows

#: Texts without labels, a line each.
_LINES = ".txt"
Records = Iterator[tuple[int, dict[str, Any]]]
_Reader = Callable[[Path, Sequence[str], str], Records]


class Files(Formatted):
    """Splits in .jsonl (an object per line), .json (that, or one list), .csv, .tsv (no quoting) or .parquet files.

    Text files are in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    `text`: one column's name, or two for pairs. `readout`: what the labels are, such as `regression`, `multi_label` or
    `tokens`, some of which have file formats and column names of their own; None infers it from the format, and from
    train's labels (numbers, not all whole, are a regression). `regression`: the same, of these two kinds. `1`, `1.0`
    and `+1`, or `True` and `true`, are one class. Relative paths start at the current directory.

    Without `text` the rows are of one of the formats (`autopeft.formats`), such as messages or prompts and completions,
    which is found by the columns' names: `format` chooses, `columns` renames.
    """

    name: ClassVar[str] = "files"
    description: ClassVar[str] = "your own texts, labelled or to be written: jsonl, csv, tsv or parquet files"

    train: str = Field(description="a file of rows: .jsonl, .json, .csv, .tsv or .parquet")
    validation: str | None = None
    test: str | None = None

    @field_validator("train", "validation", "test")
    @classmethod
    def _known_suffix(cls, value: str | None) -> str | None:
        if value is not None and not names_a_file(value):
            raise ValueError(f"'{Path(value).name}' is of no known format; known: {', '.join(_formats())}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _usual_columns(cls, data: Any) -> Any:
        """What the kind of labels calls its columns, where that is known and the columns are not named."""
        kind = _kind(data.get("readout"), data.get("train")) if isinstance(data, dict) else None
        if kind is None or kind.columns[0] is None:
            return data
        return {"text": kind.columns[0], "label": kind.columns[1], **data}

    def _read(self) -> Raw:
        train = self._rows(self.train)
        validation = None if self.validation is None else self._rows(self.validation)
        test = None if self.test is None else self._rows(self.test)
        if self.written:
            return Raw(train, validation, test, **self._written_as())
        return Raw(train, validation, test, readout=self._labels)

    @property
    def _labels(self) -> str | None:
        """The kind of labels that is asked for, or that the train file's format is of."""
        if self.regression is not None:
            return "regression" if self.regression else "classification"
        kind = _kind(self.readout, self.train)
        return None if kind is None else kind.name

    def _rows(self, name: str) -> Rows:
        path = Path(name)
        with door(path):  # a pipe or a device would be read without end
            there, exists = path.is_file(), path.exists()
        if not there:
            raise AutopeftError(f"{path}: {'is not a file' if exists else 'no such file'}; {_beside(path, _formats())}")
        suffix = path.suffix.lower()
        mark = ", row " if suffix == ".parquet" else ":"
        if self.written:
            return self._written_rows(path, suffix, mark)
        columns = self.labelled[0]
        kind = READOUTS.get(self._labels) if self._labels else None
        return collect(_formats()[suffix](path, columns, self.label), columns, self.label, str(path), mark, kind)

    def _written_rows(self, path: Path, suffix: str, mark: str) -> Rows:
        if suffix not in _NAMES:
            raise AutopeftError(f"{path}: files of this kind hold labels; name one of {', '.join(_NAMES)}")
        names = _NAMES[suffix](path)
        if not names:
            raise AutopeftError(f"{path}: no rows; a split needs at least one")
        detected = self._detected(names, str(path))
        records = _READERS[suffix](path, self._needed(detected, names, str(path)), "")
        return self._conversations(records, detected, str(path), mark)


def names_a_file(name: str) -> bool:
    """Whether a name ends like one of a file that can be read."""
    return Path(name).suffix.lower() in _formats()


def check_kind(path: Path) -> None:
    """`AutopeftError` for a file whose name says that it cannot be read as labelled rows."""
    if not names_a_file(str(path)):
        raise AutopeftError(f"{path}: is of no known format; known: {', '.join(_formats())}")


def _kind(readout: Any, train: Any) -> type[Readout] | None:
    """The kind of that name, else the one whose format the train file is in."""
    if readout is None:
        return tagged(Path(train).suffix.lower()) if isinstance(train, str) else None
    return READOUTS.all().get(readout) if isinstance(readout, str) else None


def _formats() -> dict[str, _Reader]:
    """The readers by suffix: ours, and those of labels with formats of their own."""
    own = {suffix: reader for kind in READOUTS.all().values() for suffix, reader in kind.readers.items()}
    return _READERS | {suffix: partial(_by_line, reader) for suffix, reader in own.items()}


def _by_line(reader: Reader, path: Path, text: Sequence[str], label: str) -> Records:
    return reader(lines(path), str(path), text, label)


def _beside(path: Path, kinds: Iterable[str]) -> str:
    """What the folder holds instead, of files with these suffixes."""
    with door(path.parent):
        if not path.parent.is_dir():
            return f"there is no folder {path.parent} either; relative paths start at {Path.cwd()}"
        others = [other for other in path.parent.iterdir() if other.suffix.lower() in kinds]
        names = [other.name for other in others if other.is_file()]
    return suggest(path.name, names)


_READERS: dict[str, _Reader] = {
    ".jsonl": json_lines,
    ".json": json_file,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
}
#: Those whose files have lines, which may be blank.
_BY_LINE = {".jsonl": json_lines, ".json": json_file, ".csv": csv_rows, ".tsv": tsv_rows}
_NAMES: dict[str, Callable[[Path], list[str]]] = {
    ".jsonl": json_names,
    ".json": json_names,
    ".csv": table_names,
    ".tsv": table_names,
    ".parquet": parquet_names,
}


def check_texts(path: Path) -> None:
    """`AutopeftError` for a file that is not there, or of which `texts_in` reads no texts."""
    kinds = (_LINES, *_READERS)
    with door(path):
        there = path.is_file()
    if not there:
        raise AutopeftError(f"{path}: no such file; {_beside(path, kinds)}")
    if path.suffix.lower() not in kinds:
        raise AutopeftError(f"{path}: is of no known format; known: {', '.join(kinds)}")


def texts_in(path: Path, columns: Sequence[str]) -> Iterator[str | tuple[str, str]]:
    """Texts of a file without labels: the lines of `.txt`, or one or two columns of the other formats.

    An empty line is an empty text, so that what is said of texts stands line by line beside them. `AutopeftError` for a
    file as `check_texts` says, and with the row's place for a text that is none.
    """
    check_texts(path)
    suffix = path.suffix.lower()
    if suffix == _LINES:
        yield from (line.strip() for line in lines(path))
        return
    by_line = _BY_LINE.get(suffix)
    rows = _READERS[suffix](path, columns, "") if by_line is None else by_line(path, columns, "", True)
    for number, record in rows:
        found = [text_cell(record, column, f"{path}, row {number}") for column in columns]
        yield found[0] if len(found) == 1 else (found[0], found[1])
