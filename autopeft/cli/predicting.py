"""`autopeft predict`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, TextIO

from autopeft.cli.heavy import at_work
from autopeft.cli.shown import safe
from autopeft.cli.tables import console
from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.exporting.predicting import Predictor, Text
from autopeft.tasks.files import check_texts, texts_in

_out = console()
#: In place of a file: lines that come in.
_INPUT = "-"


def run_predict(
    folder: Path,
    name: str,
    max_new_tokens: int | None,
    batch: int,
    trust_remote_code: bool,
    as_json: bool,
    model: str | None = None,
) -> None:
    """One line a text, empty ones too, as soon as its batch is done; lines of a terminal are answered one by one."""
    if name != _INPUT:
        # Before the model is loaded, which takes a while.
        check_texts(Path(name))
    elif sys.stdin is None:
        raise AutopeftError("standard input: is closed; give a file of texts")
    with at_work("loading the model", as_json):
        predictor = Predictor(folder, trust_remote_code, model)
    if name == _INPUT:
        if sys.stdin.isatty():
            batch = 1
            print("a text a line, each is answered at once; Ctrl-D ends it", file=sys.stderr)
        rows: Iterable[Text] = _incoming(sys.stdin)
    else:
        rows = texts_in(Path(name), predictor.columns)
    said = 0
    for chunk in _chunks(rows, batch):
        for found in predictor(chunk, max_new_tokens, batch):
            said += 1
            if as_json:
                print(json.dumps(found, ensure_ascii=False), flush=True)
            else:
                _out.print(safe(_line(found)), soft_wrap=True, highlight=False)
    if not said:
        raise AutopeftError(f"{'standard input' if name == _INPUT else name}: holds no text; give one a line")


def _incoming(stream: TextIO) -> Iterator[str]:
    """The lines that come in; `AutopeftError` for what is no text."""
    if isinstance(stream, io.TextIOWrapper):
        # Where the locale is C, Python lets bytes that are no text pass as halves of characters.
        stream.reconfigure(errors="strict")
    for number in count():
        with door(f"standard input after line {number}"):
            line = next(stream, None)
        if line is None:
            return
        yield (line if number else line.removeprefix("\ufeff")).strip()


def _chunks(rows: Iterable[Text], size: int) -> Iterator[Sequence[Text]]:
    left = iter(rows)
    while chunk := list(islice(left, size)):
        yield chunk


def _line(found: dict[str, Any]) -> str:
    """A prediction in words: the label and its probability, those of several, a value, or a text."""
    likely = found.get("probabilities", {})
    if "label" in found:
        return f"{found['label']}  {likely[found['label']]:.3f}"
    if "labels" in found:
        return "  ".join(f"{label} {likely[label]:.3f}" for label in found["labels"]) or "none"
    return f"{found['value']:.4g}" if "value" in found else str(found["text"])
