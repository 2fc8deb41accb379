"""A private folder for a session's temporary files, gone when the session is, however it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from autopeft.doors import reason
from autopeft.errors import AutopeftError
from autopeft.runners import _reaper

#: Of the thread that works in the folder.
THREAD = "ray"
_staying: list[subprocess.Popen[bytes] | None] = []
_PREFIX, _OWNER = "autopeft-ray-", "owner"
#: Ray adds up to 77 characters for its sockets and the folder's own name has 22, of 107 that a socket's path may have.
_LONGEST = 16
#: Bytes that Ray's logs and Tune's records take at most, but for shared weights, which are left out where there is
#: no room.
_ROOM = 32 * 2**20
_HOUR = 3600


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that nobody else can enter, with a short path; `AutopeftError` when there is no place for one.

    Folders that killed sessions of this user have left are removed. A process watches over this one: when this process
    is killed, it ends all that have files in the folder, and removes it.
    """
    places = _places()
    for place in places:
        _clean(place)
    folder = _make(places)
    process = psutil.Process()
    (folder / _OWNER).write_text(f"{process.pid} {process.create_time()}", encoding="ascii")
    watcher = _watcher(folder)
    try:
        yield folder
    finally:
        _reaper.reap(folder)
        if any(thread.name == THREAD for thread in threading.enumerate()):
            # It may still make a file there: the watcher stays until the process ends.
            _staying.append(watcher)
        elif watcher is not None:
            watcher.kill()
            watcher.communicate()


def _places() -> list[Path]:
    """Where it may be, the user's own choice first; sockets need a short path."""
    asked = [os.environ.get("TMPDIR", ""), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"]
    with suppress(OSError):
        asked.insert(0, tempfile.gettempdir())
    places = [Path(place) for place in dict.fromkeys(asked) if place and len(os.fsencode(place)) <= _LONGEST]
    return [place for place in places if place.is_absolute()]


def _make(places: list[Path]) -> Path:
    """A new folder of mode 700 in the first place that takes one and has room."""
    why: list[str] = []
    for place in places:
        try:
            free = shutil.disk_usage(place).free
            if free >= _ROOM:
                return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            why.append(f"{place}: {free // 2**20} MiB are free, {_ROOM // 2**20} are needed")
        except OSError as error:
            why.append(f"{place}: {reason(error)}")
    raise AutopeftError(
        f"runner: there is no place for temporary files ({'; '.join(why)}); make room, or set TMPDIR to a folder whose "
        f"path has at most {_LONGEST} characters"
    )


def _clean(place: Path) -> None:
    """Remove what killed sessions have left there."""
    with contextlib.suppress(OSError):
        for folder in place.glob(f"{_PREFIX}*"):
            if _abandoned(folder):
                _reaper.reap(folder)


def _abandoned(folder: Path) -> bool:
    """Whether it is ours, and its process is no more (or another has its number)."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        if not (folder / _OWNER).exists():
            # One that is being made this moment has no owner yet.
            return time.time() - folder.stat().st_mtime > _HOUR
        pid, began = (folder / _OWNER).read_text(encoding="ascii").split()
        return abs(psutil.Process(int(pid)).create_time() - float(began)) > 1
    except psutil.NoSuchProcess:
        return True
    except (OSError, ValueError, psutil.Error):
        return False


def _watcher(folder: Path) -> subprocess.Popen[bytes] | None:
    """The process that watches over it; none where none can be started: the next session cleans up then."""
    try:
        return subprocess.Popen(
            [sys.executable, _reaper.__file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
    except OSError:
        return None
