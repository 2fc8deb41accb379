"""The front as a table, for programs and for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.candidate import SAMPLER
from autopeft.costs import COSTS, amount
from autopeft.markup import Html, joined, markdown_table, table, tag
from autopeft.markup import markdown as escaped
from autopeft.metrics import is_of_texts
from autopeft.searching.keys import number_of, short_keys
from autopeft.wording import number, spaced

if TYPE_CHECKING:
    import pandas as pd

    from autopeft.candidate import Evaluation
    from autopeft.searching.front import ParetoFront


_TEST = "test_"
#: The mark of a score that was not confirmed, where others were.
UNCONFIRMED = "*"
#: The header of hybrids in short.
HYBRID = "hybrid in layers"


@dataclass(frozen=True)
class Column:
    """A column of a table for people: that of the highest `rank` is the first to go where there is no room.

    With `least` its cells may be cut to so many characters.
    """

    header: str
    cells: Sequence[str]
    rank: int = 0
    left: bool = False
    least: int = 0


def columns(front: ParetoFront, points: Sequence[Evaluation]) -> list[Column]:
    """Of some of the front's candidates, with short headers: scores are means over seeds where there are several.

    Of those without other seeds, where others have some, it is what is to be expected, with a mark. Keys are as short
    as tells them from all others of the search.
    """
    score, confirmed = front.score.metric, front.verdict.confirmed
    keys, picks = short_keys(e.key for e in (*front.evaluations, *points)), marks(front)
    over = [confirmed.get(e.number) for e in points]
    sure = [confirmed.get(e.number) or front.verdict.expected.get(e.number) for e in points]
    others = [o.metric for o in front.objectives if o.metric != score]
    roles = [role_of(front, e) for e in points]
    rates = dict.fromkeys(name for e in points for name in e.candidate.training)
    found = [
        Column("no.", [number_of(e) for e in points]),
        Column("key", [keys[e.key] for e in points], left=True),
        Column(score, [mean_of(front, e, score) for e in points]),
        Column("test", [mean_of(front, e, f"test_{score}") for e in points], 1),
        *(Column(n, [mean_of(front, e, f"test_{n}") for e in points], 2) for n in _written(points)),
        *(Column(_short(n), [mean_of(front, e, n) for e in points], 5) for n in tested(front)),
        *(Column(_short(n), [amount(n, e.metrics.get(n)) for e in points], 5 * bool(i)) for i, n in enumerate(others)),
        Column("pick", [picks.get(e.number, "") for e in points], 2, left=True),
        Column("p", ["" if c is None or c.p_front is None else f"{c.p_front:.2f}" for c in over], 4),
        Column(
            "seeds", [("1" if s else "") if c is None else str(c.seeds) for s, c in zip(sure, over, strict=True)], 7
        ),
        Column("from", [" ".join(role.split()[:1]) for role in roles], 3, left=True),
        *(Column(_short(n), [number(e.candidate.training.get(n)) for e in points], 6) for n in rates),
        Column("searched", [number(e.metrics.get(score)) if s else "" for e, s in zip(points, sure, strict=True)], 8),
        Column(HYBRID, [e.candidate.hybrid.summary() for e in points], left=True, least=22),
    ]
    # Where all are the sampler's, or nothing is confirmed, there is nothing to say.
    empty = {"", SAMPLER}
    return [column for column in found if not points or set(column.cells) - empty]


def marks(front: ParetoFront) -> dict[int, str]:
    """What `--pick` calls candidates of the front, `best` and `knee`, by their numbers."""
    if not front.points:
        return {}
    return {front.knee().number: "knee", front.best().number: "best"}


def leaderboard(front: ParetoFront) -> tuple[list[Evaluation], list[Column]]:
    """All candidates, the best score first and the failed ones last, and their columns."""
    score = front.score.metric
    last = {"done": 0, "stopped": 0, "failed": 1}

    def place(e: Evaluation) -> tuple[int, float, int]:
        loss = front.loss_of(e, front.score) if score in e.metrics else math.inf
        return last[e.status], math.inf if math.isnan(loss) else loss, e.number

    ranked, on = sorted(front.evaluations, key=place), {e.number for e in front.points}
    picks = dict.fromkeys(on, "yes") | marks(front)
    costs = [o.metric for o in front.objectives if o.is_cost]
    keys = short_keys(e.key for e in ranked)
    found = [
        Column("no.", [number_of(e) for e in ranked]),
        Column("key", [keys[e.key] for e in ranked], left=True),
        Column(score, [mean_of(front, e, score) for e in ranked]),
        Column("test", [mean_of(front, e, f"test_{score}") for e in ranked], 4),
        *(Column(_short(n), [amount(n, e.metrics.get(n)) for e in ranked], 4 if i else 0) for i, n in enumerate(costs)),
        Column("front", [picks.get(e.number, "") for e in ranked], 1, left=True),
        Column("ended", ["" if e.status == "done" else e.status for e in ranked], 2, left=True),
        Column("from", [" ".join(role_of(front, e).split()[:1]) for e in ranked], 3, left=True),
        Column("epochs", [str(e.fidelity or "") for e in ranked], 7),
        Column("seconds", [f"{e.seconds:.1f}" for e in ranked], 8),
        Column(HYBRID, [e.candidate.hybrid.summary() for e in ranked], left=True, least=20),
    ]
    return ranked, [column for column in found if not ranked or any(column.cells)]


def _written(points: Sequence[Evaluation]) -> list[str]:
    """The metrics of texts that were measured on test."""
    names = dict.fromkeys(name for e in points for name in e.metrics if name.startswith(_TEST))
    return [short for name in names if is_of_texts(short := name.removeprefix(_TEST))]


def tested(front: ParetoFront) -> list[str]:
    """Test scores that are shown beside the main one: of other objectives, of tasks of a mix, of further sets."""
    score, scores = front.score.metric, [o.metric for o in front.objectives if not o.is_cost]
    names = dict.fromkeys(n for e in front.points for n in e.metrics if n.startswith("test_") and n != f"test_{score}")
    known = {n for e in front.points for n in e.metrics}

    def is_shown(name: str) -> bool:
        own = name.removeprefix("test_")
        further = own not in known and own.endswith(f"_{score}")
        return further or own in scores or (own in known and "." in own)

    return [name for name in names if is_shown(name)]


def mean_of(front: ParetoFront, evaluation: Evaluation, name: str, mark: str | None = None) -> str:
    """A metric of a candidate: over seeds where there are several, with a `mark` where it might have been."""
    known = front.spread(evaluation, name)
    if known is None:
        return number(evaluation.metrics.get(name))
    own = UNCONFIRMED if mark is None else mark
    return known.words + (own if evaluation.number in front.verdict.expected else "")


def _short(name: str) -> str:
    """A cost's, a rate's or a test score's name in a header."""
    if name in COSTS.names():
        return COSTS.get(name).short or name
    return name.removeprefix("learning_").replace("test_", "test ", 1)


def frame(front: ParetoFront) -> pd.DataFrame:
    """One row a point: number, key, metrics and costs, training hyper-parameters, the hybrid in words."""
    import pandas as pd

    rows = [
        {
            "number": e.number,
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
    return pd.DataFrame(rows, columns=["number", "key", *metrics, *training, "hybrid"])


def cells(front: ParetoFront) -> tuple[list[str], list[list[str]]]:
    """Headers and rows for people: number, key, objectives, test score, training rates, the hybrid in short."""
    names = [o.metric for o in front.objectives]
    test = f"test_{front.score.metric}"
    if any(test in e.metrics for e in front.points):
        at = names.index(front.score.metric) + 1
        names[at:at] = [test, *(f"{_TEST}{name}" for name in _written(front.points)), *tested(front)]
    rates = list(dict.fromkeys(name for e in front.points for name in e.candidate.training))
    more = list(dict.fromkeys(name for e in front.points for name in _over_seeds(front, e)))
    rows = [
        [
            number_of(e),
            e.key,
            *(amount(name, e.metrics.get(name)) for name in names),
            *(_over_seeds(front, e).get(name, "") for name in more),
            *(number(e.candidate.training.get(name)) for name in rates),
            e.candidate.hybrid.summary(),
        ]
        for e in front.points
    ]
    return ["no.", "key", *names, *more, *rates, "hybrid (sizes, in how many layers)"], rows


def markdown(front: ParetoFront) -> str:
    """The same as a Markdown table."""
    if not front.points:
        return "No finished candidate is within the budget.\n"
    said = "".join(f"\n{escaped(sentence, begins=True)}\n" for sentence in sentences(front))
    return markdown_table(*cells(front)) + said


def html(front: ParetoFront) -> Html:
    """The table of `columns`, for a notebook; whole hybrids show when one points at short ones."""
    if not front.points:
        return tag("p", "No finished candidate is within the budget.")
    found = columns(front, front.points)
    left = [i for i, column in enumerate(found) if column.left]
    rows = [list(row) for row in zip(*(column.cells for column in found), strict=True)]
    whole = [
        tag("span", row[-1], title=e.candidate.hybrid.describe()) for row, e in zip(rows, front.points, strict=True)
    ]
    lines = [[*row[:-1], last] for row, last in zip(rows, whole, strict=True)]
    return joined([table([c.header for c in found], lines, left), *(tag("p", said) for said in sentences(front))])


def sentences(front: ParetoFront) -> list[str]:
    """Who stands for equals, what is not confirmed, what is gained over controls, and how optimistic the search was."""
    return [*equals(front), *filter(None, [unconfirmed(front)]), *gained(front)]


def equals(front: ParetoFront) -> list[str]:
    """Which member stands for what was confirmed with the same score and costs: such a one may be sure of its place."""
    said = "{} has the mean score and costs of {}, which stands on the front for both."
    pairs = ((e, front.equal_to(e)) for e in front.confirmed_off_front)
    return [said.format(number_of(e), number_of(member)) for e, member in pairs if member is not None]


def unconfirmed(front: ParetoFront) -> str | None:
    """What to know of members of the front that were not trained with other seeds; None where all were, or none."""
    left, score = front.unconfirmed, front.score
    if not left:
        return None
    luck = max(front.loss_of(e, score) - score.loss(e.metrics[score.metric]) for e in left)
    were = "members were" if len(left) > 1 else "members was"
    return (
        f"Not confirmed ({UNCONFIRMED}): {len(left)} of the front's {len(front.points)} {were} trained with one seed, "
        f"others with more. Of that stands the {score.metric.replace('_', ' ')} to be expected: the searched one less "
        f"the luck that the confirmed had ({luck:.4f}), ± what one training deviates by. Best and knee are chosen as "
        "if it were a deviation worse."
    )


def doubt(front: ParetoFront, evaluation: Evaluation) -> str | None:
    """What to know of a member that was not trained with other seeds, as others were; None of any other."""
    name = front.score.metric
    spread = front.verdict.expected.get(evaluation.number, {}).get(name)
    if spread is None:
        return None
    return (
        f"not confirmed: trained with one seed, others of its search with more; of its validation {name}, "
        f"{evaluation.metrics[name]:.4f}, {spread.mean:.4f} ± {spread.sd:.4f} is to be expected"
    )


def gained(front: ParetoFront) -> list[str]:
    """What is gained over the controls, at a few costs, and how optimistic the search was."""
    verdict = front.verdict
    said = [f"{gain.words[0].upper()}{gain.words[1:]}." for gain in verdict.gains]
    if verdict.optimism is not None:
        name = spaced(front.score.metric)
        said.append(
            f"Optimism: on validation the searched front's {name} was {abs(verdict.optimism):.4f} "
            f"{'better' if verdict.optimism > 0 else 'worse'} than over all seeds."
        )
    return said


def _over_seeds(front: ParetoFront, evaluation: Evaluation) -> dict[str, str]:
    """A point's scores over seeds, its probability of being on the true front, the control that it is."""
    verdict, found = front.verdict, {}
    if (expected := verdict.expected.get(evaluation.number)) is not None:
        spread = expected[front.score.metric]
        found[f"{front.score.metric} over seeds"] = f"{spread.words} (1, not confirmed)"
    if (known := verdict.confirmed.get(evaluation.number)) is not None:
        for name in (front.score.metric, f"test_{front.score.metric}"):
            if (own := known.scores.get(name)) is not None:
                found[f"{name} over seeds"] = f"{own.words} ({known.seeds})"
        if known.p_front is not None:
            found["p_front"] = f"{known.p_front:.2f}"
    if any(role_of(front, e) != SAMPLER for e in front.points):
        found["role"] = role_of(front, evaluation)
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
