"""What finished searches add up to: rows of a table, markdown, and the plot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _searchers_volume import SCALES, curve, false_kills, samples
from _surfaces import Surface

#: Shares of the best known front's hypervolume, and how often medians are drawn again for their bands.
LEVELS, DRAWS = (0.8, 0.9, 0.95), 2_000
#: Trials are counted to the volume that this one has at its end, too.
RIVAL = ("tpe", "none")
Run = Mapping[str, Any]
Key = tuple[str, str]


def measure(runs: Sequence[Run], on: Surface, best: np.ndarray) -> list[dict[str, Any]]:
    """A row a contender and stopping rule, in the order of `runs`."""
    groups: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run["contender"], run["stopping"]].append(run)
    levels = {f"{level}": level for level in LEVELS}
    if RIVAL in groups:
        levels[RIVAL[0]] = float(np.median([curve(run, on, best, "log")[-1] for run in groups[RIVAL]]))
    return [_row(key, group, on, best, levels) for key, group in groups.items()]


def _row(key: Key, group: Sequence[Run], on: Surface, best: np.ndarray, levels: Mapping[str, float]) -> dict[str, Any]:
    curves = {scale: [curve(run, on, best, scale) for run in group] for scale in SCALES}
    used = [samples(run, on) for run in group]
    killed = np.array([false_kills(run) for run in group]).sum(0)
    row: dict[str, Any] = {
        "contender": key[0],
        "stopping": key[1],
        "surface": on.name,
        "seeds": len(group),
        "trials": min(len(run["cost"]) for run in group),
        "final": {scale: median_band([c[-1] for c in curves[scale]]) for scale in SCALES},
        "trials_to": {name: median_band([_first(c, level) for c in curves["log"]]) for name, level in levels.items()},
        "samples_to": {
            name: median_band([_at(u, _first(c, level)) for u, c in zip(used, curves["log"], strict=True)])
            for name, level in levels.items()
        },
        "samples": median_band([float(u[-1]) for u in used]),
        "stopped_share": float(np.mean([np.mean(run["stopped"]) for run in group])),
        "false_kills": int(killed[0]),
        "front_members": int(killed[1]),
        "ask_mean": float(np.mean([np.mean(run["ask"]) for run in group])),
        "ask_last": float(np.mean([np.mean(run["ask"][-20:]) for run in group])),
    }
    row["curves"] = {scale: _quartiles(curves[scale], row["trials"]) for scale in SCALES}
    row["samples_curve"] = np.median([u[: row["trials"]] for u in used], axis=0).tolist()
    return row


def _first(shares: np.ndarray, level: float) -> float:
    """The number of the trial, from 1, that first reached the level; infinite when none did."""
    reached = np.flatnonzero(shares >= level)
    return float(reached[0] + 1) if len(reached) else float("inf")


def _at(used: np.ndarray, trial: float) -> float:
    return float(used[int(trial) - 1]) if np.isfinite(trial) else float("inf")


def median_band(values: Sequence[float]) -> tuple[float, float, float]:
    """(Median, 2.5% and 97.5% quantiles of the medians of samples drawn with replacement); infinite values count."""
    known, rng = np.array(values, dtype=float), np.random.default_rng(0)
    medians = np.median(known[rng.integers(len(known), size=(DRAWS, len(known)))], axis=1)
    # A quantile that is one of them: between a number and infinity there is no interpolating.
    low, high = np.quantile(medians, (0.025, 0.975), method="inverted_cdf")
    return float(np.median(known)), float(low), float(high)


def _quartiles(curves: Sequence[np.ndarray], trials: int) -> list[list[float]]:
    """Lower quartile, median, upper quartile by trial [3, trials]."""
    stacked = np.stack([c[:trials] for c in curves])
    return np.round(np.quantile(stacked, (0.25, 0.5, 0.75), axis=0), 4).tolist()


# --- words ------------------------------------------------------------------------------------------------------------


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One table for each surface."""
    columns = [
        "contender", "stopping", "seeds x trials", "hypervolume, log cost", "linear cost",
        *(f"trials to {float(level):.0%}" for level in LEVELS),
        *(f"samples to {float(level):.0%}" for level in LEVELS[:2]),
        f"trials / samples to where {RIVAL[0]} ends",
        "samples in all", "stopped", "false kills", "ask, mean (last 20), s",
    ]  # fmt: skip
    lines = []
    for name in dict.fromkeys(row["surface"] for row in rows):
        lines += [f"Surface `{name}`:", "", f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows if row["surface"] == name]
        lines.append("")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    end, spent = row["trials"], row["samples"][0]
    kills = f"{row['false_kills']} of {row['front_members']}" if row["stopped_share"] else "-"
    return [
        row["contender"],
        row["stopping"],
        f"{row['seeds']} x {end}",
        *(_band(row["final"][scale], 0, "{:.3f}") for scale in SCALES),
        *(_band(row["trials_to"][f"{level}"], end, "{:.0f}") for level in LEVELS),
        *(_band(row["samples_to"][f"{level}"], spent, "{:,.0f}") for level in LEVELS[:2]),
        _to_rival(row, end, spent),
        f"{spent:,.0f}",
        f"{row['stopped_share']:.0%}",
        kills,
        f"{row['ask_mean']:.3g} ({row['ask_last']:.3g})",
    ]


def _to_rival(row: Mapping[str, Any], end: float, spent: float) -> str:
    if RIVAL[0] not in row["trials_to"]:
        return "-"
    return (
        f"{_band(row['trials_to'][RIVAL[0]], end, '{:.0f}')} / {_band(row['samples_to'][RIVAL[0]], spent, '{:,.0f}')}"
    )


def _band(values: Sequence[float], end: float, form: str) -> str:
    """Median (band); what was not reached within the run is more than its end."""
    middle, low, high = (form.format(v) if np.isfinite(v) else ">" + form.format(end) for v in values)
    return middle if low == high else f"{middle} ({low} to {high})"


# --- picture ----------------------------------------------------------------------------------------------------------


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A row a surface: the hypervolume by trial with whole trainings, and by training samples with each rule."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    surfaces = list(dict.fromkeys(row["surface"] for row in rows))
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    rules = sorted({row["stopping"] for row in rows}, key=lambda rule: (rule != "none", rule))
    figure, axes = plt.subplots(len(surfaces), 2, figsize=(12, 4 * len(surfaces)), squeeze=False)
    for row in rows:
        left, right = axes[surfaces.index(row["surface"])]
        color = f"C{contenders.index(row['contender']) % 10}"
        low, middle, high = row["curves"]["log"]
        if row["stopping"] == rules[0]:
            trials = range(1, len(middle) + 1)
            left.plot(trials, middle, color=color, label=row["contender"])
            left.fill_between(trials, low, high, color=color, alpha=0.12, linewidth=0)
        style = ("-", "--", ":", "-.")[rules.index(row["stopping"]) % 4]
        right.plot(row["samples_curve"], middle, style, color=color, label=f"{row['contender']}, {row['stopping']}")
    for name, (left, right) in zip(surfaces, axes, strict=True):
        left.set(title=f"{name}: stopping {rules[0]}", xlabel="trials", ylabel="share of the best hypervolume")
        right.set(title=f"{name}: stopping {', '.join(rules)}", xlabel="training samples")
        for axis in (left, right):
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
