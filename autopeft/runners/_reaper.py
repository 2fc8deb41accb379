"""A process that outlives a killed search by a moment, and takes away what the search has left.

Run as a file with the path of a private folder: it waits until its standard input ends, which is when the search has
ended in whatever way, ends the processes whose open files are in the folder, and removes the folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil


def reap(folder: Path, seconds: float = 10.0) -> None:
    """End every process that has files of `folder` open, and remove it."""
    deadline = time.monotonic() + seconds
    end_processes(folder, seconds)
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)


def end_processes(folder: Path, seconds: float = 10.0) -> None:
    """End every process that has files of `folder` open, but this one."""
    deadline = time.monotonic() + seconds
    while (found := _users(folder)) and time.monotonic() < deadline:
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=1)


def _users(folder: Path) -> list[psutil.Process]:
    """Processes of this user, but this one, that have files of it open: Ray's all keep their logs there."""
    inside, found = f"{folder}{os.sep}", []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            mine = process.uids().real == os.getuid() and process.pid != os.getpid()
            if mine and any(file.path.startswith(inside) for file in process.open_files()):
                found.append(process)
    return found


if __name__ == "__main__":
    sys.stdin.buffer.read()
    reap(Path(sys.argv[1]))
    # What was being ended may have made a folder anew.
    time.sleep(1)
    reap(Path(sys.argv[1]))
