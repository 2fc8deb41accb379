"""Arguments and options that several verbs have."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from autopeft.errors import AutopeftError, shown, suggest


def path_given(given: str | Path) -> Path:
    """A path; an empty one would be the current folder, which is what a variable that isn't set makes of it."""
    text = str(given)
    if not text.strip() or not text.isprintable():
        raise typer.BadParameter(f"{shown(text)} is no path")
    return Path(text)


def flag(*names: str, help: str) -> Any:
    """An option that takes no value: its help says so by naming none."""
    return typer.Option(*names, metavar="", help=help)


def number(least: int | None = None, most: int | None = None, *, help: str) -> Any:
    """An option that takes a whole number from `least` to `most`."""
    return typer.Option(min=least, max=most, metavar="N", help=help)


Json = Annotated[bool, flag("--json", help="Print JSON for a program to read.")]
Quiet = Annotated[bool, flag("--quiet", "-q", help="No progress and no table.")]
Trust = Annotated[
    bool,
    flag(
        "--trust-remote-code", help="Run the Python code that the model brings, if the search needs it. Read it first."
    ),
]


def _use_plugins(folders: list[Path] | None) -> None:
    from autopeft.plugins import use_plugins

    use_plugins(*(folders or ()))


# Used before the verb looks anything up; may be given several times.
Plugins = Annotated[
    Optional[list[Path]],  # noqa: UP045
    typer.Option(
        "--plugins",
        parser=path_given,
        metavar="FOLDER",
        callback=_use_plugins,
        help="A folder with plug-ins: its Python files are run. Read them first.",
    ),
]


def _experiments(typed: str) -> list[str]:
    """For the shell: shipped experiments, and YAML files from here, that begin with what is typed."""
    from autopeft.resources import shipped

    folder, slash, begin = typed.rpartition("/")
    with suppress(OSError):
        files = [
            f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}"
            for path in sorted(Path(f"{folder}{slash}" or ".").iterdir())
            if path.name.startswith(begin) and (path.suffix in (".yaml", ".yml") or path.is_dir())
        ]
        return [*(name for name in shipped("experiments") if name.startswith(typed)), *files]
    return []


def _runs(typed: str) -> list[str]:
    """For the shell: run folders, and folders on the way to one, that begin with what is typed."""
    folder, slash, begin = typed.rpartition("/")
    with suppress(OSError):
        there = [path for path in sorted(Path(f"{folder}{slash}" or ".").iterdir()) if path.is_dir()]
        named = [(f"{folder}{slash}{path.name}", path) for path in there if path.name.startswith(begin)]
        return [name if (path / "experiment.yaml").is_file() else f"{name}/" for name, path in named]
    return []


Run = Annotated[
    Path,
    typer.Argument(
        parser=path_given,
        metavar="FOLDER",
        help="A run folder, such as runs/quickstart.",
        show_default=False,
        autocompletion=_runs,
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT",
        help="A shipped experiment (see 'autopeft list experiments') or a YAML file.",
        show_default=False,
        autocompletion=_experiments,
    ),
]
Given = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A field of the experiment, such as training.epochs=5; may be given several times.",
    ),
]
FORMATS = ("auto", "lora", "lora-padded", "peft", "merged", "autopeft")


def format_given(name: str) -> str:
    """One of `FORMATS`; what is none is told before anything heavy is imported."""
    if name not in FORMATS:
        raise AutopeftError(f"--format: unknown format '{name}'; {suggest(name, FORMATS)}")
    return name


Moved = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--model", metavar="MODEL", help="Where the base model is now, if it was moved."),
]
