"""Readouts: what a model's outputs are, from labels to loss and metrics. One file here is one kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from autopeft.errors import AutopeftError, suggest
from autopeft.metrics import METRICS, Metric, is_of_texts
from autopeft.plugins import HOW
from autopeft.readouts._base import IGNORED, Labelled, Measure, Reader, Readout
from autopeft.readouts._labels import doubt
from autopeft.registry import Registry

READOUTS: Registry[Readout] = Registry("autopeft.readouts", Readout, "readout")

__all__ = [
    "IGNORED", "READOUTS", "Labelled", "Measure", "Reader", "Readout", "bare", "complaint", "direction", "doubt",
    "implied", "inferred", "known_metrics", "readout_from", "stated", "tagged",
]  # fmt: skip

#: What labels are that no kind claims.
_USUAL = "classification"


def inferred(train: Labelled, declared: bool) -> type[Readout]:
    """The kind of train's labels, where the task does not say it; `declared`: the data named the classes.

    `AutopeftError` with the row's place where a column of numbers has something else among them.
    """
    kinds = () if declared else READOUTS.all().values()
    return next((kind for kind in kinds if kind.infers(train)), READOUTS.get(_USUAL))


def readout_from(data: Mapping[str, Any]) -> Readout:
    """The readout that `to_json` wrote; `AutopeftError` for anything else."""
    values = dict(data)
    kind = READOUTS.get(str(values.pop("name", None)))
    known = {field.name for field in fields(kind)}
    if unknown := values.keys() - known:
        raise AutopeftError(f"readout '{kind.name}' has no field '{min(unknown)}'; known: {', '.join(sorted(known))}")
    try:
        made: Readout = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise AutopeftError(f"readout '{kind.name}': {field}: {first['msg'].lower()}") from error
    return made


def implied(labels: Sequence[str], positive: int | None = None) -> Readout:
    """The readout of a record that names none: of classes where there are labels, else of numbers."""
    if not labels:
        return readout_from({"name": "regression"})
    return readout_from({"name": _USUAL, "labels": list(labels), "positive": positive})


def stated(readout: Readout) -> dict[str, Any] | None:
    """The JSON of a readout for a record; None where labels and positive class imply it, as in older ones."""
    return None if readout == implied(readout.labels, getattr(readout, "positive", None)) else readout.to_json()


def tagged(suffix: str) -> type[Readout] | None:
    """The kind that has files of that suffix in a format of its own."""
    return next((kind for kind in READOUTS.all().values() if suffix in kind.readers), None)


def known_metrics() -> Mapping[str, Measure | type[Metric]]:
    """The metrics of all kinds; where two have one of the same name, its direction is the same."""
    found: dict[str, Measure | type[Metric]] = dict(METRICS.all())
    for kind in READOUTS.all().values():
        for name, metric in kind.own_metrics.items():
            if found.setdefault(name, metric).direction != metric.direction:
                raise AutopeftError(f"readout '{kind.name}': metric '{name}' has another direction elsewhere")
    return found


def direction(metric: str) -> Literal["max", "min"]:
    """Whether more or less of the metric is better; more, for what no readout has."""
    known, metric = known_metrics(), bare(metric)
    return known[metric].direction if metric in known else "max"


def bare(metric: str) -> str:
    """The name of a metric without that of the task, of several, that it is of."""
    return metric.rpartition(".")[2]


def complaint(names: Sequence[str], readout: Readout | type[Readout] | None = None) -> str:
    """What is wrong with the names of metrics, or ""; whether they fit is left out while `readout` is not known."""
    known = known_metrics()
    for name in names:
        if bare(name) not in known:
            return f"unknown metric '{name}'; {suggest(name, known)}; a plug-in's: {HOW}"
        if is_of_texts(bare(name)):
            return f"'{name}' is of texts that a model writes; name it in the experiment's 'generation'"
        if readout is not None and not readout.fits(name):
            return f"'{name}' does not fit {readout.called}; choose of {', '.join(readout.metrics())}"
        if isinstance(readout, Readout) and (wrong := readout.complaint(name)):
            return wrong
    return "" if names else f"at least one metric is needed; known: {', '.join(known)}"
