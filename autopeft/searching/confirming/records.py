"""Where confirming trainings are kept: with the study, a pack whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from autopeft.candidate import Status
from autopeft.doors import door
from autopeft.searching.confirming.values import Confirmed, ControlPoint, Run
from autopeft.searching.controls import named
from autopeft.searching.study_checks import DAMAGED

if TYPE_CHECKING:
    from autopeft.searching.study import Study

#: What a study has kept under a name; None when nothing was.
Remembered = Callable[[str], "dict[str, Any] | None"]

_PACK, _TESTS, _CONTROLS = "confirmed pack {}", "confirmed on test", "controls"
_ENDED = "ended"
_BASELINE, _BASELINES = "baseline {}", "baselines"


def keep_end(study: Study, ended: bool) -> None:
    """Store whether the search has come to its end: its front confirmed where that is asked for, measured on test."""
    study.remember(_ENDED, {"ended": ended})


def ended_in(remembered: Remembered) -> bool | None:
    """What `keep_end` has stored; None for a search of an older version."""
    known = remembered(_ENDED)
    return None if known is None else known.get("ended") is True


def has_ended(remembered: Remembered, trials: int | None, count: int) -> bool:
    """Whether the search has come to its end; of one of an older version, whether it has its number of candidates."""
    known = ended_in(remembered)
    return known if known is not None else trials is None or count >= trials


def keep_pack(study: Study, runs: Sequence[tuple[int, Run]]) -> None:
    """Store trainings that ended together, by the numbers of their candidates."""
    count = sum(1 for _ in _packs(study.remembered))
    study.remember(_PACK.format(count), {"runs": [{"number": number, **run.to_json()} for number, run in runs]})


def keep_tests(study: Study, scores: Sequence[tuple[int, int, Mapping[str, float]]]) -> None:
    """Store test scores by number and seed, beside those that are there."""
    known = (study.remembered(_TESTS) or {"scores": []})["scores"]
    new = [{"number": number, "seed": seed, "metrics": dict(metrics)} for number, seed, metrics in scores]
    study.remember(_TESTS, {"scores": [*known, *new]})


def keep_controls(study: Study, names: Mapping[str, str], reference: float | None) -> None:
    """Store which candidates are controls, by key, and what a share of the first cost is of."""
    if study.remembered(_CONTROLS) is None:
        study.remember(_CONTROLS, {"names": dict(names), "reference": reference})


def keep_baseline(study: Study, name: str, runs: Sequence[Run], metrics: Mapping[str, float], rate: float) -> None:
    """Store what is trained so far of a baseline at its best rate, with its costs."""
    names = (study.remembered(_BASELINES) or {"names": []})["names"]
    if name not in names:
        study.remember(_BASELINES, {"names": [*names, name]})
    study.remember(
        _BASELINE.format(name), {"runs": [run.to_json() for run in runs], "metrics": dict(metrics), "rate": rate}
    )


def controls_in(remembered: Remembered) -> tuple[dict[str, str], float | None]:
    """What `keep_controls` has stored; nothing in a search without."""
    known = remembered(_CONTROLS) or {}
    with door("study", "its controls are damaged", DAMAGED):
        names = {str(key): named(str(name)) for key, name in known.get("names", {}).items()}
        reference = known.get("reference")
        return names, None if reference is None else float(reference)


def baseline_in(remembered: Remembered, name: str) -> tuple[list[Run], dict[str, float], float] | None:
    """What `keep_baseline` has stored."""
    known = remembered(_BASELINE.format(name))
    if known is None:
        return None
    with door("study", f"the runs of {name} are damaged", DAMAGED):
        return [_run(data) for data in known["runs"]], dict(known["metrics"]), float(known["rate"])


def runs_in(remembered: Remembered) -> dict[int, list[Run]]:
    """All confirming trainings by number, with their test scores; `AutopeftError` when they are damaged."""
    found: dict[int, list[Run]] = {}
    with door("study", "its confirming trainings are damaged", DAMAGED):
        tests: dict[tuple[int, int], dict[str, float]] = {}
        for t in (remembered(_TESTS) or {"scores": []})["scores"]:
            tests[t["number"], t["seed"]] = {**tests.get((t["number"], t["seed"]), {}), **t["metrics"]}
        for pack in _packs(remembered):
            for data in pack["runs"]:
                number = int(data["number"])
                run = _run({name: value for name, value in data.items() if name != "number"})
                measured = tests.get((number, run.seed), {})
                found.setdefault(number, []).append(replace(run, metrics={**run.metrics, **measured}))
    return found


def _run(data: Mapping[str, Any]) -> Run:
    run = Run(**data)
    numbers = [*run.metrics.values(), run.seconds, run.seed]
    if run.status not in get_args(Status) or not all(isinstance(n, (int, float)) for n in numbers):
        raise ValueError("a score is no number")
    return run


def _packs(remembered: Remembered) -> Iterator[dict[str, Any]]:
    count = 0
    while (pack := remembered(_PACK.format(count))) is not None:
        yield pack
        count += 1


def baselines_in(remembered: Remembered) -> list[ControlPoint]:
    """Controls that are baselines, as far as they are trained."""
    names = (remembered(_BASELINES) or {"names": []})["names"]
    found = [(str(name), baseline_in(remembered, name)) for name in names]
    return [_point(name, *known[:2]) for name, known in found if known is not None]


def _point(name: str, runs: Sequence[Run], metrics: Mapping[str, float]) -> ControlPoint:
    own = dict(runs[0].metrics) if runs else {}
    return ControlPoint(named(name), {**metrics, **own}, Confirmed.of(runs) if len(runs) > 1 else None)
