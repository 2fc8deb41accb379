"""The front as a table, for programs and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.candidate import SAMPLER

if TYPE_CHECKING:
    import pandas as pd

    from autopeft.candidate import Evaluation
    from autopeft.searching.front import ParetoFront


def frame(front: ParetoFront) -> pd.DataFrame:
    """One row a point: key, metrics and costs, training hyper-parameters, the hybrid in words."""
    import pandas as pd

    rows = [
        {
            "key": e.key,
            **e.metrics,
            **_over_seeds(front, e),
            **e.candidate.training,
            "hybrid": e.candidate.hybrid.describe(),
        }
        for e in front.points
    ]
    metrics = dict.fromkeys(name for e in front.points for name in e.metrics)
    metrics |= dict.fromkeys(name for e in front.points for name in _over_seeds(front, e))
    training = dict.fromkeys(name for e in front.points for name in e.candidate.training)
    return pd.DataFrame(rows, columns=["key", *metrics, *training, "hybrid"])


def cells(front: ParetoFront) -> tuple[list[str], list[list[str]]]:
    """Headers and rows for people: key, objectives, test score, training hyper-parameters, the hybrid in short."""
    names = [o.metric for o in front.objectives]
    test = f"test_{front.score.metric}"
    if any(test in e.metrics for e in front.points):
        names.insert(names.index(front.score.metric) + 1, test)
    rates = list(dict.fromkeys(name for e in front.points for name in e.candidate.training))
    more = list(dict.fromkeys(name for e in front.points for name in _over_seeds(front, e)))
    rows = [
        [
            e.key,
            *(number(e.metrics.get(name)) for name in names),
            *(_over_seeds(front, e).get(name, "") for name in more),
            *(number(e.candidate.training.get(name)) for name in rates),
            e.candidate.hybrid.summary(),
        ]
        for e in front.points
    ]
    return ["key", *names, *more, *rates, "hybrid (sizes, in how many layers)"], rows


def markdown(front: ParetoFront) -> str:
    """The same as a Markdown table."""
    if not front.points:
        return "No finished candidate is within the budget.\n"
    headers, rows = cells(front)
    table = "".join(f"| {' | '.join(line)} |\n" for line in (headers, ["---"] * len(headers), *rows))
    return table + "".join(f"\n{sentence}\n" for sentence in sentences(front))


def sentences(front: ParetoFront) -> list[str]:
    """What is gained over the controls, at a few costs, and how optimistic the search was."""
    verdict = front.verdict
    said = [f"{gain.words[0].upper()}{gain.words[1:]}." for gain in verdict.gains]
    if verdict.optimism is not None:
        name = front.score.metric.replace("_", " ")
        said.append(
            f"Optimism: on validation the searched front's {name} was {abs(verdict.optimism):.4f} "
            f"{'better' if verdict.optimism > 0 else 'worse'} than over all seeds."
        )
    return said


def _over_seeds(front: ParetoFront, evaluation: Evaluation) -> dict[str, str]:
    """A point's scores over seeds, its probability of being on the true front, the control that it is."""
    verdict, found = front.verdict, {}
    if (known := verdict.confirmed.get(evaluation.number)) is not None:
        for name in (front.score.metric, f"test_{front.score.metric}"):
            if (spread := known.scores.get(name)) is not None:
                found[f"{name} over seeds"] = f"{spread.mean:.4f} +- {number(spread.sd) or '?'} ({known.seeds})"
        if known.p_front is not None:
            found["p_front"] = f"{known.p_front:.2f}"
    if verdict.names:
        found["control"] = verdict.names.get(evaluation.key, "")
    return found


def role_of(front: ParetoFront, evaluation: Evaluation) -> str:
    """What a candidate is in its search: `control lora 1`, `large hybrid`, `healed from KEY`, or the sampler's."""
    if evaluation.role:
        return evaluation.role
    # Studies of older versions say it less directly.
    if evaluation.origin is not None:
        return f"{evaluation.born} from {evaluation.origin.parent}"
    name = front.verdict.names.get(evaluation.key)
    return SAMPLER if name is None else f"control {name}"


def number(value: float | None) -> str:
    """Whole numbers with separators, others with four digits; nothing for what was not measured."""
    if value is None or value != value:
        return ""
    if float(value).is_integer() and (abs(value) >= 1 or isinstance(value, int)):
        return f"{int(value):,}"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2e}"
