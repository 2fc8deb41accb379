"""Rows of tables: comma- or tab-separated text, and parquet."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.tasks._lines import MOST_CHARACTERS, lines
from autopeft.tasks._rows import bare, columns_of

if TYPE_CHECKING:
    from _csv import Reader as _Reader  # how typeshed names it

    import pyarrow

Records = Iterator[tuple[int, dict[str, Any]]]

#: Of a parquet file, which may claim (and repeat) a row by the billion in a few bytes.
_MOST_ROWS = 20_000_000
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def csv_rows(path: Path, text: Sequence[str], label: str, blanks: bool = False) -> Records:
    """The rows of a table with commas, each with the number of the line that it starts on.

    With `blanks` an empty line is a row of empty cells; else it is none.
    """
    return _rows(path, text, label, {"delimiter": ",", "strict": True}, blanks)


def tsv_rows(path: Path, text: Sequence[str], label: str, blanks: bool = False) -> Records:
    """The rows of a table with tabs; `blanks` as in `csv_rows`.

    Quotes are ordinary characters: tab-separated corpora (GLUE's) hold unpaired ones, which would swallow rows.
    """
    return _rows(path, text, label, {"delimiter": "\t", "quoting": csv.QUOTE_NONE}, blanks)


def table_names(path: Path) -> list[str]:
    """The columns of a table with commas or tabs."""
    tabs = path.suffix.lower() == ".tsv"
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    _raise_limit()
    header = next(_cells(path, csv.reader(lines(path, newline=""), **dialect), 0), None)
    return [bare(name) for name in header[1]] if header else []


def parquet_names(path: Path) -> list[str]:
    """The columns of a parquet file."""
    with door(path, "no readable parquet"):
        from pyarrow import parquet

        return [str(name) for name in parquet.ParquetFile(path).schema_arrow.names]


def _raise_limit() -> None:
    # The limit is the process's: raised, never lowered, as others may have raised it further.
    if csv.field_size_limit() < MOST_CHARACTERS:
        csv.field_size_limit(MOST_CHARACTERS)


def _rows(path: Path, text: Sequence[str], label: str, dialect: dict[str, Any], blanks: bool) -> Records:
    _raise_limit()
    source = lines(path, newline="")
    start = next(source, "")
    names = (*text, label) if label else tuple(text)
    _check_separator(f"{path}:1", start, set(names), dialect["delimiter"])
    source = itertools.chain([start] if start else [], source)
    reader = csv.reader(source, **dialect)
    found = next(_cells(path, reader, 0), None)
    if found is None:
        return
    first, header = found
    places = columns_of(header, text, label, f"{path}:{first}", "; the first line names the columns")
    if any(header[i] != name and header[i].startswith(" ") for i, name in zip(places, names, strict=True)):
        dialect["skipinitialspace"] = True  # `text, label`: the space belongs to the separator, in all rows
    remedy = "quote the separators" if "strict" in dialect else "a text can't hold a tab"
    for number, cells in _cells(path, csv.reader(source, **dialect), reader.line_num, blanks):
        if len(cells) > len(header):
            raise AutopeftError(f"{path}:{number}: more cells than the header has; {remedy}")
        # Cells that a row lacks are none; a blank line is no row that lacks some.
        lacking = None if cells else ""
        yield number, {name: cells[i] if i < len(cells) else lacking for i, name in zip(places, names, strict=True)}


def _cells(path: Path, reader: _Reader, before: int, blanks: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The rows that aren't blank (with `blanks` all), each with the number of its first line.

    `before` lines came before the reader's.
    """
    while True:
        number = before + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = "a quote that opens in it is never closed" if "end of data" in str(error) else str(error)
            raise AutopeftError(f"{path}:{number}: broken row ({why})") from error
        if cells or blanks:
            yield number, cells


def _check_separator(where: str, header: str, wanted: set[str], delimiter: str) -> None:
    """`AutopeftError` where another separator would give the columns."""

    def gives(separator: str) -> bool:
        return wanted <= {cell.strip().strip('"') for cell in header.split(separator)}

    for other, name in _SEPARATORS.items():
        if gives(other) and not gives(delimiter):
            remedy = f"save it with {_SEPARATORS[delimiter]}" + (", or name it .tsv" if other == "\t" else "")
            raise AutopeftError(f"{where}: {name} separate the columns, not {_SEPARATORS[delimiter]}; {remedy}")


def parquet_rows(path: Path, text: Sequence[str], label: str) -> Records:
    """The rows of a parquet file, counted from 1; only the columns asked for are read."""
    with door(path, "no readable parquet"):
        from pyarrow import parquet

        file = parquet.ParquetFile(path)
        names, rows = list(file.schema_arrow.names), file.metadata.num_rows
    if rows > _MOST_ROWS:
        raise AutopeftError(f"{path}: {rows:,} rows are more than memory holds ({_MOST_ROWS:,} at most); give a part")
    wanted = [names[i] for i in columns_of(names, text, label, str(path))]
    with door(path, "no readable parquet"):
        batches = file.iter_batches(batch_size=8192, columns=wanted)
    count = 0
    while True:
        with door(path, f"no readable parquet after row {count}"):
            batch = next(batches, None)
        if batch is None:
            return
        columns = [_values(batch, name, path, count) for name in wanted]
        for values in zip(*columns, strict=True):
            count += 1
            yield count, dict(zip((*text, label) if label else text, values, strict=True))


def _values(batch: pyarrow.RecordBatch, name: str, path: Path, before: int) -> list[Any]:
    """The column's values in Python; `AutopeftError` with the row of the first that has none."""
    column = batch.column(name)
    try:
        return list(column.to_pylist())
    except Exception:  # said of its row, by the door
        values: list[Any] = []
        for index in range(len(column)):
            with door(f"{path}, row {before + index + 1}", f"column '{name}' holds no readable value"):
                values.append(column[index].as_py())
        return values
