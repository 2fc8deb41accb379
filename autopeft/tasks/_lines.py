"""Text files of any size as lines: UTF-8, or what a byte order mark at their start says."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from autopeft.doors import door, reason
from autopeft.errors import AutopeftError

#: Characters of a line: what is longer is no row, but a file without line ends, or full of zeros.
MOST_CHARACTERS = 2**28

# UTF-32's little-endian mark starts with UTF-16's.
_MARKS = [
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
_BINARY = [
    (b"\x1f\x8b", "is compressed (gzip); unpack it"),
    (b"\xfd7zXZ\0", "is compressed (xz); unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd); unpack it"),
    (b"PK\x03\x04", "is an archive or a spreadsheet; unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "is an old spreadsheet; save it as CSV"),
    (b"PAR1\x15", "is a parquet file; name it .parquet"),
    (b"SQLite format 3\0", "is a database; export its table as CSV"),
]


def lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """The lines with their ends, split where `open` splits them with that `newline`; `AutopeftError` for no text."""
    encoding = _encoding(path)
    with door(path):
        file = path.open(encoding=encoding, newline=newline)
    with file:
        count = 0
        while True:
            try:
                line = file.readline(MOST_CHARACTERS)
            except Exception as error:
                raise AutopeftError(_complaint(path, encoding, error)) from error
            if not line:
                return
            count += 1
            if len(line) == MOST_CHARACTERS:
                raise AutopeftError(
                    f"{path}:{count}: more than {MOST_CHARACTERS:,} characters on one line; break it up"
                )
            yield line


def _encoding(path: Path) -> str:
    """By the first bytes; `AutopeftError` where they are those of another kind of file."""
    with door(path), path.open("rb") as file:
        head = file.read(4096)
    for start, what in _BINARY:
        if head.startswith(start):
            raise AutopeftError(f"{path}: {what}")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if head.count(0) > len(head) / 8:
        order = "LE" if head[1::2].count(0) > head[::2].count(0) else "BE"
        remedy = f"save it as UTF-8, for example with: iconv -f UTF-16{order} -t UTF-8"
        raise AutopeftError(f"{path}: many bytes are 0, as in UTF-16 without a byte order mark; {remedy}")
    return "utf-8"


def _complaint(path: Path, encoding: str, error: Exception) -> str:
    if not isinstance(error, UnicodeDecodeError):
        return f"{path}: cannot be read ({reason(error)})"
    if not encoding.startswith("utf-8"):
        return f"{path}: cannot be read as {encoding.upper()} ({error.reason}); save it as UTF-8"
    with door(path), path.open("rb") as file:  # the decoder knows the place in its own buffer only
        for count, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as found:
                byte = f"byte {found.object[found.start]:#04x} after {found.start} others"
                remedy = "save it as UTF-8, for example with: iconv -f WINDOWS-1252 -t UTF-8"
                return f"{path}:{count}: cannot be read as UTF-8 ({byte}); if it is Windows-1252, {remedy}"
    return f"{path}: cannot be read as UTF-8 ({error.reason})"
