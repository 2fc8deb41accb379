"""Evaluations in MLflow's words: names and values that every MLflow store takes."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from autopeft.candidate import SAMPLER, Evaluation
from autopeft.costs import COSTS
from autopeft.markup import Markdown, markdown
from autopeft.searching.highlights import export_command
from autopeft.searching.keys import named

NUMBER, KEY, STATUS, ON_FRONT = "autopeft.number", "autopeft.key", "autopeft.status", "autopeft.on_front"
REPAIRED, ERROR, KIND, SEARCH_ID = "autopeft.repaired", "autopeft.error", "autopeft.kind", "autopeft.search_id"
HYBRID, ROLE = "autopeft.hybrid", "autopeft.role"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"

# MLflow's own limits; beyond them it raises or cuts silently, by version and by store.
_KEY_LENGTH = 250
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000
_PARAMS_A_BATCH = 100
_METRICS_A_BATCH = 800  # 1000 things in all, of which 100 may be parameters
TAGS_A_BATCH = 100
#: Characters of a cost in a name where no limit says how many there are.
_WIDTH = 11


def safe_name(name: str) -> str:
    """`name` as a metric's or parameter's name: other characters become `_`, and it is no path that MLflow refuses."""
    clean = re.sub(r"[^/\w.\- ]", "_", name)[:_KEY_LENGTH]
    path = posixpath.normpath(clean).lstrip("/")
    return path if path and not path.startswith(".") else "_" + path.lstrip(".")


def cut(text: str, length: int = _TAG_LENGTH) -> str:
    """`text`, or its beginning and `…` when it is longer than `length` (that of a tag)."""
    return text if len(text) <= length else text[: length - 1] + "…"


def number(value: Any) -> float | None:
    """`value` as a float, NaN and infinity included; None when it is not a number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def params(values: Mapping[str, Any]) -> list[Any]:
    """MLflow parameters of those values."""
    from mlflow.entities import Param

    return [Param(k, v) for k, v in param_texts(values).items()]


def param_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Names and values as MLflow stores them."""
    return {safe_name(k): cut(str(v), _PARAM_LENGTH) for k, v in values.items()}


def metrics(values: Mapping[str, Any], timestamp_ms: int, step: int) -> list[Any]:
    """MLflow metrics of those values that are numbers."""
    from mlflow.entities import Metric

    pairs = [(safe_name(k), number(v)) for k, v in values.items()]
    return [Metric(k, v, timestamp_ms, step) for k, v in pairs if v is not None]


def batches(metric_list: list[Any], param_list: list[Any]) -> Iterator[tuple[list[Any], list[Any]]]:
    """Both lists in pieces that fit into one request each."""
    i = 0
    while metric_list[i * _METRICS_A_BATCH :] or param_list[i * _PARAMS_A_BATCH :]:
        yield (
            metric_list[i * _METRICS_A_BATCH : (i + 1) * _METRICS_A_BATCH],
            param_list[i * _PARAMS_A_BATCH : (i + 1) * _PARAMS_A_BATCH],
        )
        i += 1


@dataclass(frozen=True)
class Naming:
    """How a candidate's run is called: `0.7530   106,752 #12 key`, score and cost first, so that names sort by both.

    `width` is that of the longest cost: shorter ones have spaces before them, which pages show as one. `run` is the
    folder that a candidate can be exported from.
    """

    score: str = ""
    cost: str = ""
    width: int = 0
    run: Path | None = None

    @classmethod
    def of(cls, objectives: Sequence[tuple[str, str]], params: Mapping[str, Any], run: Path | None = None) -> Self:
        """Of a search's first score and first cost; without objectives names have neither, and nothing is exported."""
        names = [name for name, _ in objectives]
        score = next((name for name in names if name not in COSTS.names()), "")
        cost = next((name for name in names if name in COSTS.names()), "")
        limit = number(params.get(f"budget.{cost}"))
        width = len(f"{limit:,.0f}") if limit is not None and math.isfinite(limit) else _WIDTH
        return cls(score, cost, width, run if objectives else None)

    def __call__(self, evaluation: Evaluation) -> str:
        """The name; what is no trial of a search is called by its key."""
        if evaluation.number < 0:
            return evaluation.key
        parts = [named(evaluation)]
        if self.cost and (cost := number(evaluation.metrics.get(self.cost))) is not None:
            parts.insert(0, f"{cost:,.0f}".rjust(self.width))
        if self.score:
            score = number(evaluation.metrics.get(self.score))
            parts.insert(0, f"{score:.4f}" if score is not None and math.isfinite(score) else evaluation.status)
        return " ".join(parts)

    def note(self, evaluation: Evaluation) -> str:
        """The description: what it is, why it has failed, the command that exports it."""
        parts = [markdown(evaluation.words, begins=True)]
        if evaluation.error:
            parts.insert(0, Markdown(f"**{evaluation.status}**: {markdown(evaluation.error)}"))
        if evaluation.role:
            parts.append(markdown(evaluation.role, begins=True))
        if self.run is not None and evaluation.status == "done":
            parts.append(Markdown(f"```bash\n{export_command(self.run, evaluation.key)}\n```"))
        return cut("\n\n".join(parts))


def child_tags(evaluation: Evaluation, parent: str, on_front: bool, note: str = "") -> dict[str, str]:
    """The tags of a candidate's run. What it is stands here in words: among parameters words would spoil plots."""
    tags = {
        PARENT: parent,
        KIND: "candidate",
        KEY: evaluation.key,
        NUMBER: str(evaluation.number),
        STATUS: evaluation.status,
        REPAIRED: truth(evaluation.repaired),
        ON_FRONT: truth(on_front),
        HYBRID: cut(evaluation.words),
        ROLE: cut(evaluation.role or SAMPLER),
        NOTE: note,
    }
    return {**tags, ERROR: cut(evaluation.error)} if evaluation.error else tags


def truth(value: bool) -> str:
    """A boolean as a tag."""
    return "true" if value else "false"


def child_params(evaluation: Evaluation, sizes: Mapping[str, int | float]) -> dict[str, Any]:
    """The parameters of a candidate's run: what the search chose, and the seed. `candidate.json` has all digits."""
    rates = {name: f"{value:.6g}" for name, value in evaluation.candidate.training.items()}
    return {**sizes, **rates, "seed": evaluation.seed}


def final_metrics(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation's metrics and its seconds, by safe name."""
    named = {**evaluation.metrics, "seconds": evaluation.seconds}
    return {safe_name(k): v for k, v in named.items() if number(v) is not None}


def last_epoch(evaluation: Evaluation) -> int:
    """The step of the last point of the curve, 0 without a curve."""
    return max((_epoch(i, point) for i, point in enumerate(evaluation.curve)), default=0)


def _epoch(index: int, point: Mapping[str, Any]) -> int:
    epoch = number(point.get("epoch"))
    return int(epoch) if epoch is not None and math.isfinite(epoch) else index + 1


def child_metrics(evaluation: Evaluation, now_ms: int, first: str = "") -> list[Any]:
    """The curve, an epoch a step, then the final metrics at the last step.

    Of equal steps MLflow shows the one with the later timestamp, so the final values are a millisecond younger. Those
    that the curve ends with are not repeated. The metric `first` comes first: pages that compare runs begin with it.
    """
    last = last_epoch(evaluation)
    curve = []
    for i, point in enumerate(evaluation.curve):
        values = {k: point[k] for k in sorted(point, key=lambda k: k != first) if k != "epoch"}
        curve += metrics(values, now_ms, _epoch(i, point))
    ends = {m.key: m.value for m in curve if m.step == last}
    final = {k: v for k, v in final_metrics(evaluation).items() if k not in ends or ends[k] != float(v)}
    return curve + metrics(final, now_ms + 1, last)
