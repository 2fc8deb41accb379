"""Which candidate is meant by what a user types, and which may be picked under limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.searching.keys import LEAST, named


def within(pool: Sequence[Evaluation], limits: Mapping[str, float]) -> list[Evaluation]:
    """Those of the pool that meet the limits; `AutopeftError` says what the least is when none does."""
    if not pool:
        raise AutopeftError("front: empty, there is no finished evaluation within the budget")
    for name, limit in limits.items():
        known = [e.metrics[name] for e in pool if name in e.metrics]
        if not known:
            raise AutopeftError(f"front: the evaluations have no metric '{name}' to be limited")
        if min(known) > limit:
            raise AutopeftError(f"front: nothing has {name} <= {limit:,}; the least is {min(known):,}")
    chosen = [e for e in pool if all(e.metrics.get(n, math.inf) <= limit for n, limit in limits.items())]
    if not chosen:
        raise AutopeftError(f"front: nothing meets all of {dict(limits)}")
    return chosen


def of_number(which: str | int, evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The candidate of a number, given as `6` or `#6`; None where that is no number, but may begin a key.

    Digits alone are a number where a candidate has it: what tables show of a key is longer. `AutopeftError` for a
    number that no candidate has, and for digits that may be both.
    """
    text = str(which).strip()
    digits = text.removeprefix("#")
    if not (digits.isascii() and digits.isdigit()):
        return None
    found = next((e for e in evaluations if str(e.number) == (digits.lstrip("0") or "0")), None)
    begun = {} if text != digits else {e.key: e for e in evaluations if e.key.startswith(text)}
    if found is None:
        if begun:
            return None
        last = max((e.number for e in evaluations), default=-1)
        known = f"those that have ended go up to {last}" if last >= 0 else "none has ended yet"
        raise AutopeftError(
            f"no candidate has the number {digits[:20]}: {known}; 'autopeft front RUN --all' lists them"
        )
    if len(text) >= LEAST and begun.keys() - {found.key}:
        others = ", ".join(sorted(begun))
        raise AutopeftError(
            f"'{text}' is the number of {named(found)}, and key {others} begins so; give '#{found.number}' for the "
            "number, or more of the key"
        )
    return found


def of_key(which: str, *pools: Sequence[Evaluation]) -> Evaluation | None:
    """The candidate whose key begins so in the first of the pools that has one; `AutopeftError` for several."""
    for pool in pools:
        found = {e.key: e for e in pool if which and e.key.startswith(which)}
        if len(found) > 1:
            raise AutopeftError(f"'{which}' is not unique: {', '.join(sorted(found))}")
        if found:
            return next(iter(found.values()))
    return None


def that_counts(
    which: str | int,
    points: Sequence[Evaluation],
    done: Sequence[Evaluation],
    evaluations: Sequence[Evaluation],
    limits: Mapping[str, float],
) -> Evaluation:
    """The candidate of a number or a key, of those that count: `done`, within the `limits`.

    `points` are the front's: the beginning of a key may be unique there only. `AutopeftError` says why there is none.
    """
    found = of_number(which, evaluations) or of_key(str(which), points, done, evaluations)
    if found is None:
        known = ", ".join(named(e) for e in points)
        raise AutopeftError(
            f"no candidate '{which}'; give 'best', 'knee', or a number or key of the front: {known or '(none)'}"
        )
    if not any(found is e for e in done):
        raise AutopeftError(
            f"candidate {named(found)} {_why_not(found, limits)}; only what was trained to its end within the limits "
            "can be picked"
        )
    return found


def _why_not(evaluation: Evaluation, limits: Mapping[str, float]) -> str:
    if evaluation.status != "done":
        return f"failed ({evaluation.error})" if evaluation.status == "failed" else "was stopped early"
    values = {name: evaluation.metrics.get(name, 0) for name in limits}
    over = [f"{name} {values[name]:,.6g} of {limit:,}" for name, limit in limits.items() if values[name] > limit]
    return f"is over the limits ({', '.join(over)})" if over else "has no finite score"
