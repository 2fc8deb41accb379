"""What the trainings of a search and those with other seeds say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.searching.confirming.plan import control_front, own_run, probabilities, with_seed
from autopeft.searching.confirming.records import Remembered, controls_in, ended_in, runs_in
from autopeft.searching.confirming.statistics import difference, prior_deviation, standard_errors
from autopeft.searching.confirming.values import Confirmed, ControlPoint, Gain, Run, Spread, Verdict
from autopeft.searching.evenly import evenly
from autopeft.searching.front import ParetoFront
from autopeft.searching.keys import named
from autopeft.searching.objective import Objective
from autopeft.wording import number, spaced

#: Draws of the probabilities that are reported, and the most costs at which gains are said.
_DRAWS, _LEVELS = 2000, 6


def judged(front: ParetoFront, remembered: Remembered, baselines: Sequence[ControlPoint] = ()) -> ParetoFront:
    """The front of a search with what its study knows beside: controls and other seeds.

    `front` is as the search has seen it, and comes back as it is where nothing is known. `baselines` are controls
    that are no candidates.
    """
    names, reference = controls_in(remembered)
    fresh, finished = runs_in(remembered), ended_in(remembered)
    if not names and not fresh and finished is None:
        return front
    runs = all_runs(front, fresh)
    known = {n: Confirmed.of(each) for n, each in runs.items() if n in fresh}
    alive = [e for e in front.done if e.number in known and known[e.number].holds]
    expected = _expected(front, known, runs)
    # Among all that the front is drawn from: what is dominated there is not likely on the true one.
    among = [*alive, *(e for e in front.points if e.number in expected)]
    p = probabilities(front, among, fresh, 0, _DRAWS, expected)
    confirmed = {n: Confirmed(c.seeds, c.scores, p.get(n), c.failed) for n, c in known.items()}
    known_so_far = Verdict(confirmed, names, expected=expected)
    redrawn = ParetoFront(front.evaluations, front.objectives, front.limits, known_so_far)
    verdict = Verdict(
        confirmed,
        names,
        _optimism(front, confirmed),
        (*(_point(e, names, confirmed) for e in control_front(front, names)), *baselines),
        tuple(_gains(redrawn, runs, reference)) if fresh else (),
        finished,
        expected,
    )
    return ParetoFront(front.evaluations, front.objectives, front.limits, verdict)


def all_runs(front: ParetoFront, fresh: Mapping[int, Sequence[Run]]) -> dict[int, list[Run]]:
    """All trainings of what has been trained again, the search's own first where it counts."""
    return {e.number: [*own_run(e), *fresh[e.number]] for e in front.done if e.number in fresh}


def median_run(runs: Sequence[Run], score: Objective) -> Run:
    """The training of median validation score (of two in the middle the worse); ties go by the seed."""
    done = [run for run in runs if run.status == "done"]
    ranked = sorted(done, key=lambda run: (score.loss(run.metrics[score.metric]), run.seed))
    return ranked[len(ranked) // 2]


def training_of(
    front: ParetoFront, pick: str | int, max_params: int | None, seed: int | None, remembered: Remembered
) -> Evaluation:
    """One training of the candidate that `ParetoFront.pick` finds, as an evaluation with its seed and its scores.

    That of `seed`, else of the median validation score where there are several. `AutopeftError` for a seed that it was
    not trained with.
    """
    chosen = front.pick(pick, max_params)
    runs = [*own_run(chosen), *runs_in(remembered).get(chosen.number, ())]
    done = {run.seed: run for run in runs if run.status == "done"}
    if seed is not None and seed not in (known := {*done, chosen.seed}):
        listed = f"seed{'s' if len(known) > 1 else ''} {', '.join(map(str, sorted(known)))}"
        raise AutopeftError(
            f"candidate {named(chosen)}: was trained with {listed}, and not with seed {seed}; 'confirm: {{seeds: 5}}' "
            "trains the front of a search with other seeds, also of one that has ended"
        )
    if seed is None:
        seed = median_run(runs, front.score).seed if len(done) > 1 else chosen.seed
    return chosen if seed not in done or (seed == chosen.seed and own_run(chosen)) else with_seed(chosen, done[seed])


def _optimism(front: ParetoFront, confirmed: Mapping[int, Confirmed]) -> float | None:
    """Searched minus confirmed score, the mean over the searched front; above 0 where the search saw too well."""
    name, score = front.score.metric, front.score
    known = [e for e in front.points if e.number in confirmed and confirmed[e.number].seeds]
    losses = [score.loss(confirmed[e.number].scores[name].mean) - score.loss(e.metrics[name]) for e in known]
    return fmean(losses) if losses else None


def _expected(
    front: ParetoFront, confirmed: Mapping[int, Confirmed], runs: Mapping[int, Sequence[Run]]
) -> dict[int, dict[str, Spread]]:
    """Of members of the searched front without other seeds: each score, less the luck that the others had.

    The front keeps lucky trainings. How lucky they were in the mean is known of those that were trained again, by their
    other seeds alone; and by how much one training deviates, by all seeds (a twentieth of the score where they are too
    few to say). Bad luck is no reason to expect more.
    """
    left = [e for e in front.points if e.number not in confirmed] if confirmed else []
    found: dict[int, dict[str, Spread]] = {e.number: {} for e in left}
    for objective in (o for o in front.objectives if not o.is_cost):
        name = objective.metric
        fresh = [(e, _fresh(runs[e.number], e, name)) for e in front.points if e.number in confirmed]
        lucks = [objective.loss(fmean(values)) - objective.loss(e.metrics[name]) for e, values in fresh if values]
        luck = max(0.0, fmean(lucks)) if lucks else 0.0
        groups = [_values(each, name) for each in runs.values()]
        for e in left:
            score = objective.loss(objective.loss(e.metrics[name]) + luck)
            errors = standard_errors([*groups, [score]], prior_deviation(score, 0))
            found[e.number][name] = Spread(score, float(errors[-1]))
    return found


def _fresh(runs: Sequence[Run], evaluation: Evaluation, name: str) -> list[float]:
    return _values([run for run in runs if run.seed != evaluation.seed], name)


def _values(runs: Sequence[Run], name: str) -> list[float]:
    return [run.metrics[name] for run in runs if run.status == "done" and name in run.metrics]


def _point(evaluation: Evaluation, names: Mapping[str, str], confirmed: Mapping[int, Confirmed]) -> ControlPoint:
    return ControlPoint(names[evaluation.key], evaluation.metrics, confirmed.get(evaluation.number))


def reported(front: ParetoFront) -> tuple[Evaluation, ...]:
    """What a search reports of a judged front: its members, and its best, which may be none of them.

    A confirmed one is best where a member that is not confirmed is expected to be better, but not by a deviation.
    """
    best = [front.best()] if front.points else []
    return tuple({e.number: e for e in (*front.points, *best)}.values())


def compared(front: ParetoFront) -> tuple[Evaluation, ...]:
    """The controls that the gains of a judged front are over: they are measured on test, like its members."""
    return tuple({e.number: e for _, e in _rivals(front) if e is not None}.values())


def _rivals(front: ParetoFront) -> list[tuple[Evaluation, Evaluation | None]]:
    """Confirmed members (of many a few), and of each the best confirmed control of no more cost, if there is one.

    By the mean validation score over seeds.
    """
    known, names = front.verdict.confirmed, front.verdict.names
    members = [e for e in front.points if e.number in known]
    if front.cost is None or not names or not members:
        return []
    cost = front.cost.metric
    controls = [e for e in front.done if e.key in names and e.number in known and known[e.number].holds]

    def place(e: Evaluation) -> tuple[float, float, int]:
        return front.loss_of(e, front.score), e.metrics[cost], e.number

    return [
        (e, min((c for c in controls if c.metrics[cost] <= e.metrics[cost]), key=place, default=None))
        for e in evenly(members, _LEVELS)
    ]


def _gains(front: ParetoFront, runs: Mapping[int, Sequence[Run]], reference: float | None) -> list[Gain]:
    """At each member's cost (of many members at a few), the best member against the best control of no more cost.

    Both are chosen by their mean validation score over seeds, and compared on test.
    """
    return [_gain(front, member, control, runs, reference) for member, control in _rivals(front)]


def _gain(
    front: ParetoFront,
    member: Evaluation,
    best: Evaluation | None,
    runs: Mapping[int, Sequence[Run]],
    reference: float | None,
) -> Gain:
    assert front.cost is not None, "asked of a front with a cost only"
    score, names, dear = front.score, front.verdict.names, front.cost.metric
    cost = member.metrics[dear]
    share = f" ({in_share(cost / reference)})" if reference else ""
    at = f"at {number(cost)} {spaced(dear)}{share}"
    if best is None:
        return Gain(cost, member.key, None, None, None, None, f"{at}: no control is as cheap")
    name = names[best.key]
    if member.key in names:
        return Gain(
            cost, member.key, names[member.key], 0.0, None, None, f"{at}: nothing gained: use {names[member.key]}"
        )
    mine, theirs = (_on_test(runs[e.number], score) for e in (member, best))
    if not mine or not theirs:
        return Gain(cost, member.key, name, None, None, None, f"{at}: not measured on test yet")
    tested = [list(_on_test(each, score).values()) for each in runs.values()]
    gain, low, high = difference(mine, theirs, tested)
    return Gain(cost, member.key, name, gain, low, high, f"{at}{_in_words(gain, low, high, name, score)}")


def _on_test(runs: Sequence[Run], score: Objective) -> dict[int, float]:
    """Test scores by seed, turned so that more is better."""
    name = f"test_{score.metric}"
    return {run.seed: -score.loss(run.metrics[name]) for run in runs if run.status == "done" and name in run.metrics}


def _in_words(gain: float, low: float | None, high: float | None, control: str, score: Objective) -> str:
    # Scores from 0 to 1 are said in points of a hundred; losses and errors as they are.
    times, unit, digits = (100, " points", 1) if score.direction == "max" else (1, "", 3)
    said = f"{times * gain:+.{digits}f}{unit}"
    if low is None or high is None:
        return f": {said} over the best control, {control}, with one seed: nothing is sure"
    interval = f"95% interval {times * low:.{digits}f} to {times * high:.{digits}f}"
    if low > 0:
        return f" the search gains {said} ({interval}) over the best control, {control}"
    return f": no sure gain ({said}, {interval}): use {control}"


def in_share(share: float) -> str:
    """A share with two digits, as per cent: 0.05%, 12%."""
    return f"{100 * share:.0f}%" if share >= 0.1 or share <= 0 else f"{100 * share:.2g}%"
