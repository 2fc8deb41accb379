"""The verbs. What is heavy is imported when a verb runs: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from autopeft import __version__
from autopeft.cli import completing, reading
from autopeft.cli.browsing import Register, compare_runs, ui
from autopeft.cli.heavy import loading
from autopeft.cli.options import (
    Given,
    Json,
    Moved,
    Name,
    Plugins,
    Quiet,
    Run,
    Trust,
    Verb,
    flag,
    format_given,
    number,
    path_given,
)
from autopeft.cli.using import evaluate, predict
from autopeft.cli.watching import watch
from autopeft.doors import door

app = typer.Typer(
    name="autopeft",
    help="Find which PEFT methods to put in which layers of a model, at which size, under a budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"autopeft {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    with door("the working directory", "is gone", "change to a folder that is there"):
        Path.cwd()


@app.command(cls=Verb)
def search(
    experiment: Name,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(parser=path_given, metavar="FOLDER", help="Run folder; default runs/<name>."),
    ] = None,
    trials: Annotated[Optional[int], number(1, help="Candidates; replaces the file's.")] = None,  # noqa: UP045
    time_limit: Annotated[str | None, typer.Option(metavar="TIME", help="Such as 1h30m; replaces the file's.")] = None,
    workers: Annotated[Optional[int], number(1, help="Replaces runner.workers.")] = None,  # noqa: UP045
    warm_start: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(parser=path_given, metavar="FOLDER", help="Run folder of an earlier search to learn from."),
    ] = None,
    given: Given = None,
    quiet: Quiet = False,
    trust_remote_code: Trust = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Launch a search, or go on with one: the same command with the same run folder resumes."""
    from autopeft.cli.overriding import with_overrides
    from autopeft.cli.signals import ended_by_signals
    from autopeft.experiment import Experiment

    with ended_by_signals("the search goes on with the same command"):
        # Before torch is imported, which takes seconds: a mistake in the file is told at once.
        loaded = with_overrides(Experiment.load(experiment, given=given), trials, time_limit, workers, warm_start)
        with loading(quiet or as_json):
            from autopeft.cli.verbs import run_search

        run_search(loaded, out, quiet, trust_remote_code, as_json)


app.command(cls=Verb)(watch)


@app.command(cls=Verb)
def plan(
    experiment: Name,
    samples: Annotated[int, number(10, 100_000, help="Uniform points to draw.")] = 1000,
    given: Given = None,
    quiet: Annotated[bool, flag("--quiet", "-q", help="Do not say what is being done.")] = False,
    trust_remote_code: Trust = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Say what a search would do, without training: dimensions, costs, share within the budget, time."""
    from autopeft.experiment import Experiment

    # Before torch is imported, which takes seconds: a mistake in the file is told at once.
    loaded = Experiment.load(experiment, given=given)
    with loading(quiet or as_json):
        from autopeft.cli.planning import run_plan

    run_plan(loaded, samples, quiet, trust_remote_code, as_json)


for _verb in (reading.front, reading.show, reading.report, reading.explain):
    app.command(cls=Verb)(_verb)


@app.command(cls=Verb)
def compare(
    experiment: Name,
    methods: Annotated[
        str, typer.Option(metavar="A,B,...", help="Methods, presets, baselines and head_only; or all.")
    ] = "all",
    seeds: Annotated[int, number(1, 100, help="Trainings at the chosen rate.")] = 3,
    rates: Annotated[int, number(1, 20, help="Learning rates that each method may try.")] = 4,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(parser=path_given, metavar="FOLDER", help="Folder to write; default runs/<name>-compare."),
    ] = None,
    given: Given = None,
    quiet: Quiet = False,
    trust_remote_code: Trust = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Train methods side by side, each at its best learning rate; the same command with the same folder goes on."""
    from autopeft.cli.signals import ended_by_signals
    from autopeft.experiment import Experiment

    with ended_by_signals("the comparison goes on with the same command"):
        # Before torch is imported, which takes seconds: a mistake in the file is told at once.
        loaded = Experiment.load(experiment, given=given)
        with loading(quiet or as_json):
            from autopeft.cli.comparing import run_compare

        run_compare(loaded, methods, seeds, rates, out, quiet, trust_remote_code, as_json)


@app.command(cls=Verb)
def train(
    recipe: Annotated[
        Path,
        typer.Argument(
            parser=path_given,
            metavar="RECIPE",
            help="A folder that 'autopeft export' wrote, its hybrid.json, or the JSON of a hybrid.",
            show_default=False,
        ),
    ],
    experiment: Name,
    seeds: Annotated[int, number(1, 100, help="How many trainings, each with the next seed.")] = 1,
    seed: Annotated[Optional[int], number(0, help="The first; default the recipe's.")] = None,  # noqa: UP045
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(parser=path_given, metavar="FOLDER", help="Where to export the median seed on validation."),
    ] = None,
    fixed: Annotated[bool, flag("--fixed", help="Train the final structure from its beginning, without cuts.")] = False,
    quiet: Quiet = False,
    trust_remote_code: Trust = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Follow the recipe of an export: its trainings, cuts and healings, on an experiment's model and task."""
    from autopeft.cli.signals import ended_by_signals
    from autopeft.experiment import Experiment
    from autopeft.following import UNUSED

    with ended_by_signals("nothing is kept; the same command begins again"):
        loaded = Experiment.load(experiment, UNUSED)
        with loading(quiet or as_json):
            from autopeft.cli.training import run_train

        run_train(recipe, loaded, seeds, seed, out, fixed, quiet, trust_remote_code, as_json)


@app.command(cls=Verb)
def export(
    run: Run,
    pick: Annotated[
        str,
        typer.Option(metavar="KEY", help="best, knee, a candidate's number or key.", autocompletion=completing.keys),
    ] = "best",
    to: Annotated[Path, typer.Option(parser=path_given, metavar="FOLDER", help="Folder to write.")] = Path("out/best"),
    max_params: Annotated[Optional[int], number(0, help="Leave out what has more parameters.")] = None,  # noqa: UP045
    format: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            callback=format_given,
            autocompletion=completing.formats,
            help="auto (stock PEFT where it can be), lora, lora-padded (one rank), gguf (for llama.cpp, too), peft, "
            "merged (no adapter) or autopeft.",
        ),
    ] = "auto",
    seed: Annotated[Optional[int], number(0, help="Of a confirmed one's trainings; default the median.")] = None,  # noqa: UP045
    model: Moved = None,
    push: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="USER/NAME", help="A repository of the hub to upload it to; the token is HF_TOKEN's."),
    ] = None,
    private: Annotated[bool, flag("--private", help="Of a repository that --push makes.")] = False,
    register: Register = None,
    trust_remote_code: Trust = False,
    plugins: Plugins = None,
) -> None:
    """Write a candidate, with its trained weights, as a Hugging Face PEFT adapter, or merged into its base model."""
    from autopeft.cli.exporting import check_register, run_export

    check_register(register, trust_remote_code)
    result = run_export(run, pick, to, max_params, format, seed, model, push, private, trust_remote_code)
    if register:
        from autopeft.cli.registering import run_register

        run_register(result, to, register)


app.command(cls=Verb)(evaluate)
app.command(cls=Verb)(predict)
app.command(cls=Verb)(ui)
app.command("compare-runs", cls=Verb)(compare_runs)


def _kinds(typed: str) -> list[str]:
    from autopeft.cli.listing import KINDS

    return [name for name in (*KINDS, "runs") if name.startswith(typed)]


@app.command("list", cls=Verb)
def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            autocompletion=_kinds,
            show_default=False,
            help="methods, baselines, tuners, readouts, tasks, formats, samplers, stopping, spaces, controls, "
            "experiments, models, costs, metrics or runners; runs: the searches in a folder.",
        ),
    ],
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(parser=path_given, metavar="FOLDER", help="Of runs; default: runs."),
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List what is known by name."""
    if what == "runs":
        from autopeft.cli.runs_list import print_runs

        return print_runs(folder, as_json)
    from autopeft.cli.listing import run_list

    return run_list(what, as_json)
