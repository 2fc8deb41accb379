"""What a view of a search says first: its best and its knee in figures, the front as a table, how to export."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autopeft.candidate import Evaluation
from autopeft.markup import Markdown, markdown, markdown_table
from autopeft.plugins import command_line
from autopeft.searching.evenly import evenly
from autopeft.searching.front import ParetoFront
from autopeft.searching.tables import columns, sentences
from autopeft.wording import number

#: The tag that says which state of a search a view shows.
STATE = "autopeft.state"
#: Columns of the description's table: those of a higher rank are left out, as are rows beyond so many.
_RANK, _ROWS = 4, 16
#: Characters of a hybrid in it.
_HYBRID = 90


@dataclass(frozen=True)
class Highlights:
    """Figures by name, the same and more in words, and a description in Markdown.

    `over_seeds`: of candidates with several seeds, by their numbers, figures by name.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    over_seeds: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def highlights(front: ParetoFront, run: Path) -> Highlights:
    """`best_<metric>`, `best_test_<metric>`, costs of best and knee, `best_key`, `knee_key`; the front as a table.

    Scores are means over seeds where there are several, else what is to be expected where others have several. `run` is
    the folder that the export commands name.
    """
    if not front.points:
        return _stamped(front, {}, {}, "No finished candidate is within the budget yet.\n")
    picks = {"best": front.best(), "knee": front.knee()}
    metrics = {f"{pick}_{name}": value for pick, e in picks.items() for name, value in _figures(front, e).items()}
    tags = {f"{pick}_key": e.key for pick, e in picks.items()} | {name: number(v) for name, v in metrics.items()}
    return _stamped(front, metrics, tags, _description(front, picks, run))


def export_command(run: Path, pick: str) -> str:
    """What a shell is given to take a candidate home."""
    return command_line("export", run, "--pick", pick, "--to", f"out/{pick}")


def figures(front: ParetoFront) -> dict[str, float]:
    """How many candidates there are, how they ended, and what controls and other seeds say."""
    evaluations, verdict = front.evaluations, front.verdict
    found: dict[str, float] = {
        "candidates": len(evaluations),
        **{status: sum(e.status == status for e in evaluations) for status in ("failed", "stopped")},
        "repaired": sum(e.repaired for e in evaluations),
        "on_front": len(front.points),
        "training_seconds": sum(e.seconds for e in evaluations),
    }
    if verdict.optimism is not None:
        found |= {"optimism": verdict.optimism, "unconfirmed": len(front.unconfirmed)}
    gained = [gain.gain for gain in verdict.gains if gain.gain is not None]
    if gained:
        found |= {"gain_most": max(gained), "gain_sure": sum((gain.low or 0) > 0 for gain in verdict.gains)}
    if verdict.names:
        found["controls"] = len(set(verdict.names) & {e.key for e in evaluations})
    return found


def _stamped(front: ParetoFront, metrics: Mapping[str, float], tags: Mapping[str, str], note: str) -> Highlights:
    over_seeds = _over_seeds(front)
    state = json.dumps([len(front.evaluations), dict(metrics), note, over_seeds], sort_keys=True)
    return Highlights(metrics, {**tags, STATE: hashlib.sha256(state.encode()).hexdigest()[:16]}, note, over_seeds)


def _over_seeds(front: ParetoFront) -> dict[int, dict[str, float]]:
    """`mean_<score>`, `sd_<score>`, also on test, and `seeds` of what was trained again."""
    scores = [o.metric for o in front.objectives if not o.is_cost]
    names, found = [*scores, *(f"test_{name}" for name in scores)], {}
    for trial, confirmed in front.verdict.confirmed.items():
        known = {name: confirmed.scores[name] for name in names if name in confirmed.scores}
        means = {f"mean_{name}": spread.mean for name, spread in known.items()}
        deviations = {f"sd_{name}": spread.sd for name, spread in known.items() if math.isfinite(spread.sd)}
        found[trial] = {**means, **deviations, "seeds": float(confirmed.seeds)}
    return found


def _figures(front: ParetoFront, evaluation: Evaluation) -> dict[str, float]:
    """Scores on validation and on test, and the costs that are objectives or limited."""
    scores = [o.metric for o in front.objectives if not o.is_cost]
    costs = [o.metric for o in front.objectives if o.is_cost]
    names = dict.fromkeys([*scores, *(f"test_{name}" for name in scores), *costs, *front.limits, "trainable_params"])
    over = {n: spread.mean for n in names if (spread := front.spread(evaluation, n)) is not None}
    found = {n: over.get(n, evaluation.metrics.get(n)) for n in names}
    return {name: float(value) for name, value in found.items() if value is not None}


def _description(front: ParetoFront, picks: Mapping[str, Evaluation], run: Path) -> str:
    commands = [export_command(run, pick) for pick in picks]
    lines = [*commands, f"{export_command(run, 'KEY')}   # any number or key of the table"]
    said = "".join(f"\n{markdown(sentence, begins=True)}\n" for sentence in sentences(front))
    return f"{_table(front, picks)}\n```bash\n{chr(10).join(lines)}\n```\n{said}"


def _table(front: ParetoFront, picks: Mapping[str, Evaluation]) -> str:
    """The front, dearest first, since pages show the first lines; of a long one best, knee and some evenly between."""
    points = _some(front.points, list(picks.values()))[::-1]
    marks = [Markdown(" ".join(f"**{pick}**" for pick, one in picks.items() if one is e)) for e in points]
    # The marks stand first, so a column of them would say it twice.
    kept = [c for c in columns(front, points) if c.rank <= _RANK and c.header != "pick"]
    rows = [[mark, *map(_cell, cells)] for mark, *cells in zip(marks, *(c.cells for c in kept), strict=True)]
    left_out = len(front.points) - len(points)
    more = f"\n{left_out:,} more points of the front are in `front.json`.\n" if left_out else ""
    lines = [[_apart(cell) for cell in row] for row in (["", *(column.header for column in kept)], *rows)]
    return markdown_table(lines[0], lines[1:]) + more


def _apart(cell: str) -> Markdown:
    """MLflow's pages leave no room between columns."""
    return Markdown(f"{markdown(cell)}&emsp;")


def _some(points: Sequence[Evaluation], always: Sequence[Evaluation]) -> list[Evaluation]:
    if len(points) <= _ROWS:
        return list(points)
    numbers = {e.number for e in (*evenly(points, _ROWS), *always)}
    return [e for e in points if e.number in numbers]


def _cell(text: str) -> str:
    return text if len(text) <= _HYBRID else text[: _HYBRID - 1] + "…"
