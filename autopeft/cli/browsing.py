"""Verbs that look at searches. What is heavy is imported when a verb runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from autopeft.cli.options import Json, Plugins, number, path_given


def _registered(name: str | None) -> str | None:
    """A name that MLflow would refuse is told before anything is exported."""
    if name is not None:
        from autopeft.browsing.names import check_name

        check_name(name)
    return name


Register = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="NAME", callback=_registered, help="Make it a version of this model in MLflow, to be served."),
]


def ui(
    run: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(parser=path_given, metavar="FOLDER", help="A run folder, or a folder of them; default: runs."),
    ] = None,
    port: Annotated[int, number(1, 65_535, help="On 127.0.0.1.")] = 5000,
    browser: Annotated[bool, typer.Option(metavar="", help="Open the page.")] = True,
    plugins: Plugins = None,
) -> None:
    """Open MLflow on a search, or on all searches of a folder side by side (Ctrl-C ends it)."""
    from autopeft.cli.signals import ended_by_signals

    with ended_by_signals("MLflow's pages are closed"):
        from autopeft.cli.pages import run_ui

        run_ui(run, port, browser)


def compare_runs(
    runs: Annotated[
        list[Path], typer.Argument(parser=path_given, metavar="FOLDER", help="Run folders.", show_default=False)
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(parser=path_given, metavar="FOLDER", help="Folder to write; default beside the first, A-vs-B."),
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Compare the fronts of searches: one corner for their hypervolumes, one plot, a table."""
    from autopeft.cli.comparing_runs import run_compare_runs

    run_compare_runs(runs, out, as_json)
