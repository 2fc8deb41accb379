"""Measuring contenders in turns, and telling what came out: a table on the console, a JSON file beside it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from _machine import PeakMemory, machine, tree_pss
from rich.console import Console
from rich.table import Table

__all__ = [
    "HERE", "RESULTS", "Measured", "Out", "PeakMemory", "Quick", "Rounds", "Run", "Summary", "interleave", "machine",
    "ratio_table", "run_script", "show", "summarise", "tree_pss", "write",
]  # fmt: skip

HERE = Path(__file__).resolve().parent

Rounds = Annotated[int, typer.Option("--rounds", min=1, help="How often every contender is measured, in turns.")]
Quick = Annotated[bool, typer.Option("--quick", help="Tiny settings: shows that it works, measures nothing.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the JSON file.")]
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Summary:
    """Median, quartiles and extremes."""

    n: int
    median: float
    low: float
    high: float
    quartiles: tuple[float, float]

    def __str__(self) -> str:
        return f"{number(self.median)}" + (f" ({number(self.low)} to {number(self.high)})" if self.n > 1 else "")


def summarise(values: Iterable[float]) -> Summary:
    """The summary of at least one value; quartiles are interpolated between values."""
    known = sorted(values)
    cuts = statistics.quantiles(known, n=4, method="inclusive") if len(known) > 1 else known * 3
    return Summary(len(known), statistics.median(known), known[0], known[-1], (cuts[0], cuts[2]))


@dataclass(frozen=True)
class Measured:
    """The values of each contender, one a round, in the order of the rounds."""

    values: Mapping[str, Sequence[float]]

    def summary(self, name: str) -> Summary:
        return summarise(self.values[name])

    def ratios(self, name: str, to: str) -> list[float]:
        """Round by round, so that what slows a whole round down (other load, heat) is not in them."""
        return [x / y for x, y in zip(self.values[name], self.values[to], strict=True)]

    def to_json(self) -> dict[str, Any]:
        return {name: {"values": list(v), **asdict(self.summary(name))} for name, v in self.values.items()}


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 0) -> Measured:
    """A, B, C, A, B, C, ...: what each returns; `warm_up` rounds before them are thrown away."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-warm_up, rounds):
        for name, contender in contenders.items():
            value = contender()
            if turn >= 0:
                values[name].append(value)
    return Measured(values)


def ratio_table(title: str, measured: Measured, unit: str, to: str) -> None:
    """A row a contender: its median, its spread, and how many times `to`'s value that is, round by round."""
    rows = []
    for name in measured.values:
        ratio = summarise(measured.ratios(name, to))
        rows.append((name, str(measured.summary(name)), "1" if name == to else str(ratio)))
    show(title, ("contender", f"{unit}: median (range)", f"times {to}"), rows)


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str | None = None) -> None:
    """Print a table; floats are rounded to what can be read."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(number(cell) if isinstance(cell, float) else str(cell) for cell in row))
    # Wide enough where no terminal says how wide it is.
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(name: str, settings: Mapping[str, Any], results: Any, out: Path) -> Path:
    """`<out>/<name>.json`: the machine, the settings, the results."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    data = {"benchmark": name, "machine": machine(), "settings": dict(settings), "results": results}
    path.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"written: {path}")
    return path


@dataclass(frozen=True)
class Run:
    """What a contender's script said (the last line of its output, as JSON), and what it took from start to end.

    `memory` is in bytes, and zero when it was not watched.
    """

    said: Mapping[str, Any]
    wall: float
    memory: int = 0
    trials: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def run_script(name: str, *arguments: object, data: Path | None = None, watch: bool = False) -> Run:
    """Run `<name>.py` of this folder in a process of its own; `data` stands for the folder of the data sets."""
    command = [sys.executable, str(HERE / f"{name}.py"), *(str(a) for a in arguments)]
    environment = dict(os.environ) | ({"AUTOPEFT_DATA": str(data)} if data else {})
    start = time.perf_counter()
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process,
        PeakMemory(process.pid) if watch else nullcontext() as memory,
    ):
        output, _ = process.communicate()
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{name}.py ended with status {process.returncode}; what it said is above")
    said = json.loads(output.strip().splitlines()[-1])
    return Run(said, wall, memory.bytes if memory else 0, tuple(said.get("trials", ())))
