"""Arguments and options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperCommand

from autopeft.cli import completing
from autopeft.doors import no_folder
from autopeft.errors import AutopeftError, shown, suggest


class Verb(TyperCommand):
    """A verb whose usage names what it takes as sentences do: `FOLDER`, where typer's `{FOLDER}` looks unfilled."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What stands behind the verb in its usage."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def get_help_option(self, ctx: Any) -> Any:
        """`--help`, which takes no value as little as other flags."""
        if (option := super().get_help_option(ctx)) is not None:
            option.metavar = ""
        return option


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


def _there(run: Path) -> Path:
    """A folder that is none of a search is told before anything heavy is imported."""
    from autopeft.run_folder import RunFolder

    return RunFolder.existing(run).path


def _of_an_export(folder: Path) -> Path:
    """The same of a folder that no export wrote."""
    if not (folder / "hybrid.json").is_file():
        what = "it has no hybrid.json" if folder.is_dir() else no_folder(folder)
        raise AutopeftError(f"{folder}: not a folder that 'autopeft export' wrote ({what})")
    return folder


Export = Annotated[
    Path,
    typer.Argument(
        parser=path_given,
        metavar="FOLDER",
        callback=_of_an_export,
        help="A folder that 'autopeft export' wrote.",
        show_default=False,
        autocompletion=completing.exports,
    ),
]
Run = Annotated[
    Path,
    typer.Argument(
        parser=path_given,
        metavar="FOLDER",
        callback=_there,
        help="A run folder, such as runs/quickstart.",
        show_default=False,
        autocompletion=completing.runs,
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT",
        help="A shipped experiment (see 'autopeft list experiments') or a YAML file.",
        show_default=False,
        autocompletion=completing.experiments,
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


def format_given(name: str) -> str:
    """One of `completing.FORMATS`; what is none is told before anything heavy is imported."""
    if name not in completing.FORMATS:
        raise AutopeftError(f"--format: unknown format '{name}'; {suggest(name, completing.FORMATS)}")
    return name


Moved = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--model", metavar="MODEL", help="Where the base model is now, if it was moved."),
]
