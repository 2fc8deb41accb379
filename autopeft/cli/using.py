"""The verbs that use an export: `evaluate`, `predict`. What is heavy is imported when one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from autopeft.cli.heavy import loading
from autopeft.cli.options import Export, Json, Moved, Plugins, Trust, number, path_given


def evaluate(
    folder: Export,
    on: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            parser=path_given, metavar="FILE", help="A file with the task's columns, in place of its test split."
        ),
    ] = None,
    model: Moved = None,
    trust_remote_code: Trust = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Load an exported adapter with Hugging Face PEFT and measure it on the test split."""
    with loading(as_json):
        from autopeft.cli.verbs import run_evaluate

    run_evaluate(folder, on, model, trust_remote_code, as_json)


def predict(
    folder: Export,
    texts: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Texts: .txt (a line each, empty ones too), .jsonl, .csv, .tsv or .parquet; -: lines that come in.",
        ),
    ] = "-",
    max_new_tokens: Annotated[
        Optional[int],  # noqa: UP045
        number(1, help="Of a text that a language model writes; default as it was measured, or 64."),
    ] = None,
    batch: Annotated[int, number(1, 4096, help="Texts at a time.")] = 32,
    model: Moved = None,
    trust_remote_code: Trust = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Say what an exported adapter makes of texts: labels with probabilities, values, or what it writes."""
    from autopeft.cli.signals import ended_by_signals

    with ended_by_signals("the rest of the texts is left out"):
        with loading(as_json):
            from autopeft.cli.predicting import run_predict

        run_predict(folder, texts, max_new_tokens, batch, trust_remote_code, as_json, model)
