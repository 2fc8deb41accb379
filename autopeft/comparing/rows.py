"""The rows of a comparison: for programs, as CSV, as Markdown, as a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopeft.comparing.contenders import Contender
from autopeft.comparing.state import Entry
from autopeft.markup import markdown, markdown_table
from autopeft.searching.confirming.values import Spread
from autopeft.searching.tables import Column
from autopeft.wording import counted, in_bytes, number, spaced, with_deviation

Row = dict[str, Any]
#: Characters of the score's header at the most: a longer one would take the room of other columns.
_SCORE = 15

#: What each column of the costs says, for the note below a table.
NOTE = (
    "The learning rate of each method is the one of its grid ({rates}) with the best validation {metric} after one "
    "training each (seed {seed}; * where it is at the edge of the grid); nothing is selected on test. Test scores are "
    "means over {seeds}, with the standard deviation. Parameters are without the task's head; kept are those that "
    "inference needs. Memory is the most that torch allocated at once while training alone on the longest batch "
    "(backbone, activations, gradients, optimiser; libraries' own scratch left out). Seconds are of training for one "
    "epoch, latency is the median for one text of median length in fp32; both were measured alone on this machine."
)


def row_of(
    contender: Contender, entry: Entry, metrics: Sequence[str], backbone_params: int, seeds: Sequence[int]
) -> Row:
    """One contender's row of its trainings with these seeds, of plain values; None for what is not known."""
    trainings = entry.of_seeds(seeds)
    tested = [t for t in trainings if t.test]
    done = entry.error is None and bool(tested)
    errors = [f"seed {t.seed}: {t.error}" for t in trainings if t.error]
    errors += [f"rate {t.learning_rate:g}: {t.error}" for t in entry.tuning if t.error]
    row: Row = {
        "method": contender.name,
        "family": contender.family,
        "status": "done" if done else "failed",
        "reason": entry.error or "; ".join(errors) or None,
    }
    for name in metrics:
        row |= _spread(f"test_{name}", [t.test for t in tested]) if done else _spread(f"test_{name}", [])
        row |= {f"validation_{k}": v for k, v in _spread(name, [t.validation for t in tested]).items()}
    costs = dict(entry.costs)
    trainable = costs.get("trainable_params")
    return row | {
        "seeds": len(tested),
        **{name: _whole(costs.get(name)) for name in ("trainable_params", "kept_params", "stored_bytes")},
        "share_of_backbone": None if trainable is None else trainable / backbone_params,
        "peak_memory_bytes": _whole(costs.get("peak_memory_bytes")),
        **{n: costs.get(n) for n in ("seconds_per_epoch", "latency_ms", "merged_latency_ms", "bare_latency_ms")},
        "learning_rate": entry.learning_rate,
        "learning_rates_tried": sorted(t.learning_rate for t in entry.tuning),
        "at_edge_of_grid": _at_edge(entry),
        "what": contender.words,
    }


def _spread(name: str, found: Sequence[Mapping[str, float]]) -> Row:
    values = [one[name] for one in found if name in one]
    known = Spread.of(values).to_json() if values else {"mean": None, "sd": None}
    return {name: known["mean"], f"{name}_sd": known["sd"]}


def _at_edge(entry: Entry) -> bool | None:
    """Whether a rate beyond the grid might have been better still."""
    tried = {t.learning_rate for t in entry.tuning}
    return None if entry.learning_rate is None else entry.learning_rate in (min(tried), max(tried))


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as a table; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(f"{x:g}" for x in v) if isinstance(v, list) else v for k, v in row.items()})
    return text.getvalue()


#: Columns after the method and its score, with the order in which they go where there is no room, the last one first.
_COLUMNS = {
    "seeds": 6, "trained": 0, "kept": 8, "stored": 4, "share": 7, "memory": 2, "s/epoch": 3, "latency": 5, "merged": 9,
    "rate": 1,
}  # fmt: skip


def cells(rows: Sequence[Row], metric: str) -> tuple[list[str], list[list[str]]]:
    """Headers and rows for people."""
    return ["method", f"test {metric}", *_COLUMNS], [_cells(row, f"test_{metric}") for row in rows]


def columns(rows: Sequence[Row], metric: str) -> list[Column]:
    """The same by columns for a terminal: of a method that failed the reason is left to `failures`."""
    headers, lines = cells(rows, metric)
    words = [
        ["failed", *line[2:]] if row["status"] == "failed" else line[1:] for row, line in zip(rows, lines, strict=True)
    ]
    score, *others = map(list, zip(*words, strict=True)) if words else [[] for _ in headers[1:]]
    ranks = _COLUMNS.values()
    return [
        Column("method", [row["method"] for row in rows], left=True),
        Column(headers[1] if len(headers[1]) <= _SCORE else "test", score),
        *(Column(h, found, rank) for h, found, rank in zip(headers[2:], others, ranks, strict=True)),
    ]


def failures(rows: Sequence[Row]) -> list[str]:
    """A line for each method that failed, with its reason."""
    return [f"{row['method']} failed: {row['reason']}" for row in rows if row["status"] == "failed"]


def _cells(row: Row, test: str) -> list[str]:
    if row["status"] == "failed":
        return [row["method"], f"failed: {row['reason']}", *[""] * 10]
    return [
        row["method"],
        with_deviation(row[test], row[f"{test}_sd"]),
        str(row["seeds"]),
        number(row["trainable_params"]),
        number(row["kept_params"]),
        in_bytes(row["stored_bytes"]),
        f"{row['share_of_backbone']:.3%}",
        in_bytes(row["peak_memory_bytes"]),
        f"{row['seconds_per_epoch']:.3g}",
        f"{row['latency_ms']:.2f} ms",
        "" if row["merged_latency_ms"] is None else f"{row['merged_latency_ms']:.2f} ms",
        f"{row['learning_rate']:g}" + ("*" if row["at_edge_of_grid"] else ""),
    ]


def to_markdown(rows: Sequence[Row], metric: str, note: str) -> str:
    """A table of the rows, and below it how they came about."""
    return f"{markdown_table(*cells(rows, metric))}\n{markdown(note, begins=True)}\n"


def note_of(metric: str, rates: Sequence[float], seed: int, seeds: int) -> str:
    """How the rows came about, in a few sentences; `rates` are those around a centre of 1."""
    factors = ", ".join(f"{rate:g}" for rate in rates)
    return NOTE.format(rates=f"its usual rate times {factors}", metric=metric, seed=seed, seeds=counted(seeds, "seed"))


def save_plot(path: Path, rows: Sequence[Row], metric: str) -> None:
    """The test score against trained parameters, with error bars of one standard deviation, as PNG."""
    from matplotlib.figure import Figure

    done = [row for row in rows if row["status"] == "done"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for row in done:
        x, y, spread = row["trainable_params"], row[f"test_{metric}"], row[f"test_{metric}_sd"] or 0.0
        axes.errorbar(x, y, yerr=spread, fmt="o", capsize=3)
        axes.annotate(row["method"], (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    # The head alone trains no parameters of its own: a logarithm from 1,000 up, and a line below.
    axes.set_xscale("symlog", linthresh=1_000)
    axes.set(xlabel="trained parameters, without the head", ylabel=f"test {spaced(metric)}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=150)
