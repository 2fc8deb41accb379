"""The folder of an export: what may stand there before, and how all of it comes there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autopeft.doors import read_json
from autopeft.errors import AutopeftError
from autopeft.recipe import FILE
from autopeft.writing import as_umask

WEIGHTS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"
_ALWAYS = (CARD, CONFIG, WEIGHTS, FILE)
#: Of a record that says which files are of its export.
_SAYS = {"key", "hybrid", "peft_type"}


def check_free(to: Path) -> None:
    """`AutopeftError` where a folder holds what no export wrote, there or where a link leads to.

    A folder with a `hybrid.json` is an export's; hidden files (a clone's `.git`) do not matter.
    """
    earlier = earlier_files(to)
    for name, whose in (("study.db", "a search"), ("config.json", "a model")):
        if (to / name).exists() and name not in (earlier or ()):
            raise AutopeftError(f"{to}: is the folder of {whose} (it has a {name}); give a folder of its own (to)")
    for name in _ALWAYS:
        if (to / name).is_symlink():
            raise AutopeftError(f"{to}: its {name} is a link to another file; give another folder (to), or remove it")
    if earlier is None and to.is_dir():
        there = sorted(path.name for path in to.iterdir() if not path.name.startswith("."))
        taken = [name for name in _ALWAYS if name in there] or there
        if taken:
            raise AutopeftError(f"{to}: holds {taken[0]} that is not of an export; give another folder (to)")


def earlier_files(to: Path) -> list[str] | None:
    """The names of what an export left in a folder; None where none has written there."""
    try:
        record = read_json(to / FILE)
    except AutopeftError:
        return None
    if not record.keys() >= _SAYS:
        return None
    names = record.get("files")
    if not isinstance(names, list):
        return list(_ALWAYS)
    # Nothing outside the folder, whatever the file says.
    return [name for name in names if isinstance(name, str) and name == Path(name).name and name.strip(".")]


@contextmanager
def filling(to: Path) -> Iterator[Path]:
    """A folder inside of `to` to write to, whose files take their places in `to` when all are written.

    What an earlier export left is gone then. Where anything is raised `to` is as it was.
    """
    fresh, earlier = not to.exists(), earlier_files(to) or []
    to.mkdir(parents=True, exist_ok=True)
    partial = to / f".export.{os.getpid()}.partial"
    try:
        partial.mkdir()
        yield partial
        as_umask(partial)
        # The record first: from then on the folder is an export's.
        made = sorted(partial.iterdir(), key=lambda path: (path.name != FILE, path.name))
        for path in made:
            if path.is_dir():
                _clear(to / path.name)
            path.replace(to / path.name)
        for name in set(earlier) - {path.name for path in made}:
            _clear(to / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if fresh:
            with suppress(OSError):
                to.rmdir()


def _clear(path: Path) -> None:
    """Remove a file or a folder, and of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
