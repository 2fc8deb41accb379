"""Arguments and options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from autopeft.errors import shown


def path_given(given: str | Path) -> Path:
    """A path; an empty one would be the current folder, which is what a variable that isn't set makes of it."""
    text = str(given)
    if not text.strip() or not text.isprintable():
        raise typer.BadParameter(f"{shown(text)} is no path")
    return Path(text)


Run = Annotated[
    Path,
    typer.Argument(
        parser=path_given, metavar="FOLDER", help="A run folder, such as runs/quickstart.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Trust = Annotated[
    bool,
    typer.Option(
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
Name = Annotated[str, typer.Argument(help="A shipped experiment (see 'autopeft list experiments') or a YAML file.")]
Moved = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--model", metavar="MODEL", help="Where the base model is now, if it was moved."),
]
