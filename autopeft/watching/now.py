"""What a search is doing at the moment, and the file in its run folder that says so."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Annotated, Literal, Self

import psutil
from pydantic import AfterValidator, Field

from autopeft.config import Strict, parse
from autopeft.doors import read_json
from autopeft.errors import AutopeftError, printable
from autopeft.writing import replacing

#: The file in a run folder.
FILE = "progress.json"
#: Seconds without a sign of life after which a search is taken not to run.
_SILENT = 60.0

#: Whoever wrote the file: no terminal obeys what it holds.
Short = Annotated[str, Field(max_length=1_000), AfterValidator(printable)]


class Running(Strict):
    """A candidate in training: how many of its epochs have ended, and its last score."""

    number: int
    key: Short
    role: Short = ""
    words: Short
    epoch: int
    epochs: int
    score: float | None = None

    @property
    def is_last(self) -> bool:
        """Whether its last epoch has begun."""
        return self.epoch + 1 >= self.epochs


class Machine(Strict):
    """Bytes that the search's processes hold, and that the machine has; share of its CPUs in use; GPUs in words."""

    held: int = 0
    free: int = 0
    total: int = 0
    cpu: float = 0.0
    devices: tuple[Short, ...] = Field((), max_length=64)


class Answer(Strict):
    """What became of a request."""

    id: Short
    said: Short
    done: bool


class Now(Strict):
    """`phase`: what the search is at; `doing`: stages with their seconds; `left`: seconds until the search ends, and
    `later` those at most of what comes after it.
    """

    phase: Literal["beginning", "searching", "confirming", "measuring", "ended", "interrupted", "failed"] = "beginning"
    doing: tuple[Short, ...] = Field((), max_length=32)
    running: tuple[Running, ...] = Field((), max_length=4_096)
    confirmed: Short = ""
    engine: Short = ""
    elapsed: float = 0.0
    left: float | None = None
    later: float = 0.0
    machine: Machine = Machine()
    notes: tuple[Short, ...] = Field((), max_length=32)
    answers: tuple[Answer, ...] = Field((), max_length=64)
    time: float = 0.0
    pid: int = 0
    host: Short = ""

    @property
    def lives(self) -> bool:
        """Whether the search runs, as far as can be known from here."""
        if self.phase in ("ended", "interrupted", "failed") or time.time() - self.time > _SILENT:
            return False
        return self.host != socket.gethostname() or psutil.pid_exists(self.pid)

    def signed(self) -> Self:
        """The same as this process says it now."""
        return self.model_copy(update={"time": time.time(), "pid": os.getpid(), "host": socket.gethostname()})

    def write(self, run: Path) -> None:
        """Replace the file; a disk that is full or gone ends no search."""
        try:
            with replacing(run / FILE) as partial:
                partial.write_text(self.model_dump_json(), encoding="utf-8")
        except OSError:
            return

    @classmethod
    def read(cls, run: Path) -> Self | None:
        """What the file of a run folder says; None without one, or with one that nobody wrote."""
        if not (run / FILE).is_file():
            return None
        try:
            return parse(cls, read_json(run / FILE), FILE)
        except AutopeftError:
            return None
