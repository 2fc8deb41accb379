"""The verbs that read a run folder: `front`, `show`, `report`, `explain`. What is heavy is imported when one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from autopeft.cli import completing
from autopeft.cli.options import Json, Plugins, Run, Trust, flag, path_given


def front(
    run: Run,
    layers: Annotated[bool, flag("--layers", help="Say which layers hold what.")] = False,
    everything: Annotated[bool, flag("--all", help="A leaderboard of every candidate, best first.")] = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show the Pareto front of a search."""
    from autopeft.cli.fronts import show_front

    show_front(run, as_json, layers, everything)


def show(
    run: Run,
    pick: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            help="A candidate's number, or the beginning of its key; best or knee.",
            show_default=False,
            autocompletion=completing.keys,
        ),
    ],
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show one candidate whole: layers by methods, course, scores, costs, where it is from, how to export it."""
    from autopeft.cli.candidates import run_show

    run_show(run, pick, as_json)


def report(
    run: Run,
    to: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(parser=path_given, metavar="FILE", help="Default: report.html (or .md) in the run folder."),
    ] = None,
    markdown: Annotated[bool, flag("--markdown", help="Markdown, for a pull request.")] = False,
    trust_remote_code: Trust = False,
    plugins: Plugins = None,
) -> None:
    """Write what a search found on one page: it needs no network and no server."""
    from autopeft.cli.reports import run_report

    run_report(run, to, markdown, trust_remote_code)


def explain(
    run: Run,
    everything: Annotated[bool, flag("--all", help="Also the parts that the score does not depend on.")] = False,
    trust_remote_code: Trust = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show what the score of a search depends on (layers, methods, training), and what its front is made of."""
    from autopeft.cli.explaining import run_explain

    run_explain(run, trust_remote_code, as_json, everything)
