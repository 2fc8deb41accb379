"""Images of a task: where the bytes of each are."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autopeft.cells import shown
from autopeft.doors import door
from autopeft.errors import AutopeftError

#: Bytes of an encoded image; a photo has ten million at most.
MOST_BYTES = 64 * 2**20


class Picture(Protocol):
    """An encoded image (PNG, JPEG, ...), read when it is asked for."""

    @property
    def name(self) -> str:
        """Its file, where it has one of its own; else ""."""

    def read(self) -> bytes:
        """Its bytes; `AutopeftError` with its file where they cannot be read."""


@dataclass(frozen=True)
class InFile:
    """An image in a file of its own."""

    path: Path

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    def read(self) -> bytes:
        """All of it; a pipe, which has no end, is refused."""
        with door(self.path):
            status = os.stat(self.path)
            if not stat.S_ISREG(status.st_mode):
                raise AutopeftError(f"{self.path}: is no file; mend the path")
            if status.st_size > MOST_BYTES:
                raise AutopeftError(f"{self.path}: {too_large(status.st_size)}")
            return self.path.read_bytes()


@dataclass(frozen=True)
class Held:
    """An image in memory."""

    data: bytes
    name: str = ""

    def read(self) -> bytes:
        """The bytes."""
        return self.data


def digest(data: bytes) -> str:
    """What stands for an image where data are compared."""
    return hashlib.sha256(data).hexdigest()[:32]


def picture_of(value: Any, folder: Path, where: str, column: str) -> Picture:
    """The image in a cell: a path (from `folder`), bytes, or `{bytes, path}` as data sets of the hub have it.

    Bytes in a text are in base64. `AutopeftError`, starting with `where`, for anything else.
    """
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        value = path if data is None else _decoded(data, where, column)
    if isinstance(value, bytes):
        if len(value) > MOST_BYTES:
            raise AutopeftError(f"{where}: column '{column}': {too_large(len(value))}")
        return Held(value)
    if isinstance(value, str) and value and "\0" not in value:
        return InFile(folder / value)
    what = "is empty" if value is None or value == "" else f"holds no image but {shown(value)}"
    raise AutopeftError(f"{where}: image column '{column}' {what}; mend the row, or name another column in 'image'")


def too_large(size: int) -> str:
    """What to say of an image of so many bytes."""
    return f"{size:,} bytes are more than an image has ({MOST_BYTES:,} at most); make it smaller, or leave it out"


def _decoded(data: Any, where: str, column: str) -> Any:
    if not isinstance(data, str):
        return data
    with door(where, f"column '{column}': its bytes are not base64", "mend the row"):
        return base64.b64decode(data, validate=True)
