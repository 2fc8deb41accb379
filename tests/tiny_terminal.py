"""A real terminal for a command, of as many columns as asked for."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(
    *arguments: str, columns: int = 80, folder: Path | None = None, typed: str = ""
) -> tuple[int, list[str]]:
    """Exit status of `autopeft` with these arguments, and the lines that stand in the terminal: `typed` are among them.

    Control-D, as `\\x04`, ends what is typed.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    surroundings = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "autopeft", *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        cwd=folder,
        env={**surroundings, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(its)
    os.write(ours, typed.encode())
    written = b""
    # Linux says with an error that nobody holds the other end any more.
    with suppress(OSError):
        while more := os.read(ours, 65_536):
            written += more
    os.close(ours)
    return process.wait(), _COLOURS.sub("", written.decode()).replace("\r\n", "\n").splitlines()
