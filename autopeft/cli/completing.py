"""What the shell completes: names that are known, and what is on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import typer

#: Formats of exports, as the command line has them.
FORMATS = ("auto", "lora", "lora-padded", "gguf", "peft", "merged", "autopeft")


def experiments(typed: str) -> list[str]:
    """Shipped experiments, and YAML files from here, that begin with what is typed."""
    from autopeft.resources import shipped

    files = _below(typed, lambda path: path.is_file() and path.suffix in (".yaml", ".yml"))
    return [*(name for name in shipped("experiments") if name.startswith(typed)), *files]


def runs(typed: str) -> list[str]:
    """Run folders, and folders on the way to one, that begin with what is typed."""
    return _below(typed, lambda path: (path / "experiment.yaml").is_file())


def exports(typed: str) -> list[str]:
    """Folders of exports, and folders on the way to one, that begin with what is typed."""
    return _below(typed, lambda path: (path / "hybrid.json").is_file())


def formats(typed: str) -> list[str]:
    """Formats of exports that begin with what is typed."""
    return [name for name in FORMATS if name.startswith(typed)]


def keys(context: typer.Context, incomplete: str) -> list[str]:
    """`best`, `knee`, and the keys of the front of the run folder that the command names."""
    found = ["best", "knee"]
    # Where the option lacks its value still, what stands before it is no parameter yet.
    run = context.params.get("run") or next(iter(context.args), "")
    with suppress(OSError, ValueError, KeyError, TypeError):
        front = json.loads((Path(run) / "front.json").read_bytes())
        found += [str(point["key"]) for point in front["points"]]
    return [key for key in found if key.startswith(incomplete)]


def _below(typed: str, wanted: Callable[[Path], bool]) -> list[str]:
    """What is wanted in the folder that is typed, and other folders, with a slash.

    A single folder that is not wanted gives what it holds: a shell puts a space after what is the only choice.
    """
    folder, slash, begin = typed.rpartition("/")
    found = []
    with suppress(OSError):
        for path in sorted(Path(f"{folder}{slash}" or ".").iterdir()):
            if path.name.startswith(begin) and (begin or not path.name.startswith(".")):
                if wanted(path):
                    found.append(f"{folder}{slash}{path.name}")
                elif path.is_dir():
                    found.append(f"{folder}{slash}{path.name}/")
    if len(found) == 1 and found[0].endswith("/"):
        return _below(found[0], wanted) or found
    return found
