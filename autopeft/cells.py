"""What a cell of a file holds: one text, one label, or what a person should mend."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from autopeft import errors
from autopeft.errors import AutopeftError, suggest

Label = str | int | float


def missing(column: str, label: str, names: Iterable[object]) -> str:
    """What to say of a column that is not among `names`."""
    kind = "label" if column == label else "text"
    return f"no {kind} column '{column}'; {suggest(column, map(str, names))}; name another in '{kind}'"


def text_cell(record: Mapping[str, Any], column: str, where: str) -> str:
    """The text in a column of a row; `AutopeftError`, starting with `where`, for what is none."""
    value = record.get(column)
    if isinstance(value, str):
        return value
    if column not in record:
        raise AutopeftError(f"{where}: {missing(column, '', record)}")
    if isinstance(value, bytes):
        value = _decoded(value)
        if isinstance(value, str):
            return value
    what = "is empty" if value is None else f"holds no text but {shown(value)}"
    words = isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value)
    hint = ", or say readout: tokens where each word of a list has a label" if words else ""
    raise AutopeftError(f"{where}: text column '{column}' {what}; mend the row, or name another column in 'text'{hint}")


def label_cell(record: Mapping[str, Any], column: str, where: str) -> Label:
    """The single value in a row's label column; `AutopeftError`, starting with `where`, for what is none."""
    if column not in record:
        raise AutopeftError(f"{where}: {missing(column, column, record)}")
    value = plain(record[column])
    if isinstance(value, str):
        if value and not value.isspace():
            return value
        value = None
    if value is None or value != value:
        raise AutopeftError(f"{where}: label column '{column}' is empty; give the row a label or remove it")
    if isinstance(value, (int, float)):
        try:
            if math.isfinite(value):
                return value
        except OverflowError:
            pass
        raise AutopeftError(f"{where}: label column '{column}' holds a number beyond all bounds; mend the row")
    hint = "mend the row, or name another column in 'label'"
    if isinstance(value, (list, tuple)):
        hint = "say readout: multi_label where a text has several classes, readout: tokens where each word has a label"
    raise AutopeftError(f"{where}: label column '{column}' holds no single value but {shown(value)}; {hint}")


def plain(value: Any) -> Any:
    """The Python value of what files of typed columns hold: numbers, ISO dates, text of UTF-8 bytes; else `value`."""
    if isinstance(value, (str, int, float)) or value is None:
        return value
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            return float("nan" if value.is_nan() else "inf")
        return float(value) if value.adjusted() > 400 or value != value.to_integral_value() else int(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (datetime.timedelta, uuid.UUID)):
        return str(value)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return value


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def shown(value: object) -> str:
    """A cell in a message, short."""
    return errors.shown(value, 40)


def clean(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which no encoding and no tokenizer takes."""
    if not broken(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def broken(text: str) -> bool:
    """Whether the text holds surrogates."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
