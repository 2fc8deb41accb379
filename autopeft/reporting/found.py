"""The sections of a report that are about what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from autopeft.candidate import Evaluation
from autopeft.costs import amount
from autopeft.reporting.candidate import course_of, facts_of, score_rows
from autopeft.reporting.document import Block, Code, Figure, Items, More, Section, Table, Text
from autopeft.reporting.drawings import beyond, course_drawing, front_drawing, heat_drawing, share_drawing
from autopeft.reporting.searched import Searched
from autopeft.searching.explanation import belief
from autopeft.searching.keys import named
from autopeft.searching.tables import columns, equals, gained, marks, unconfirmed
from autopeft.wording import number, spaced

#: Parts with the largest shares that are drawn.
_PARTS = 20
#: Smaller shares are of the sampling.
_LEAST = 0.005
_SPREAD = (
    "±: standard deviation over seeds. p: probability of being on the true front. Selected on validation; test scores "
    "are reported only."
)


def front_section(run: Searched) -> Section:
    """The front as a picture and as a table."""
    front = run.front
    if not front.points:
        return Section("The front", [Text("No finished candidate is within the budget.")])
    on = _table(run, front.points)
    caption = "Bars are standard deviations over seeds. " if front.verdict.confirmed else ""
    caption += "Each mark says what it is when you point at it."
    if far := beyond(front):
        caption += f" Dominated ones on the edge ({far}) are worse than the axis goes."
    figure = Figure(front_drawing(front, run.keys), caption)
    blocks: list[Block] = [figure, on, Text(_SPREAD, note=True)]
    blocks += map(Text, [*equals(front), *filter(None, [unconfirmed(front)])])
    if off := front.confirmed_off_front:
        blocks.append(More("Trained with other seeds, and not on the front", [_table(run, off)]))
    return Section("The front", blocks)


def _table(run: Searched, points: Sequence[Evaluation]) -> Table:
    found = columns(run.front, points)
    links = [f"c{run.keys[e.key]}" for e in points] if points is run.front.points else []
    left = frozenset(i for i, column in enumerate(found) if column.left)
    rows = [list(row) for row in zip(*(column.cells for column in found), strict=True)]
    return Table([column.header for column in found], rows, left, links)


def gains(run: Searched) -> Section:
    """What the search gains over controls, and these."""
    verdict, score = run.front.verdict, run.front.score.metric
    costs = [o.metric for o in run.front.objectives if o.is_cost]
    rows = []
    for control in verdict.controls:
        shown = []
        for name in (score, f"test_{score}"):
            spread = None if control.confirmed is None else control.confirmed.scores.get(name)
            own = number(control.metrics.get(name))
            shown.append(own if spread is None else spread.words)
        rows.append([control.name, *shown, *(amount(name, control.metrics.get(name)) for name in costs)])
    headers = ["control", spaced(score), "test", *(spaced(name) for name in costs)]
    said: list[Block] = [Items(gained(run.front))] if gained(run.front) else []
    table: list[Block] = [More("The best controls", [Table(headers, rows, frozenset({0}))])] if rows else []
    return Section("Against controls", [*said, *table])


def layers(run: Searched) -> Section:
    """Which methods the front has in which layers."""
    hybrids = [e.candidate.hybrid for e in run.front.points]
    names = list(dict.fromkeys(m.label for hybrid in hybrids for m in hybrid.methods()))
    if not names:
        return Section("Where methods sit", [Text("The front adapts nothing but the head.")] if hybrids else [])
    stands = [("input", [h.model for h in hybrids])] if any(h.model for h in hybrids) else []
    stands += [(str(i), [h.layers[i] for h in hybrids]) for i in range(len(hybrids[0].layers))]
    rows = []
    for where, each in stands:
        cells = []
        for name in names:
            sizes = [
                max(m.size_value for m in own if m.label == name) for own in each if name in {m.label for m in own}
            ]
            mean = f", mean size {np.mean(sizes):.3g}" if sizes else ""
            said = f"layer {where}, {name}: {len(sizes)} of {len(hybrids)} members{mean}"
            cells.append((len(sizes) / len(hybrids), said))
        rows.append((where, cells))
    told = [[where, *(f"{share:.0%}" if share else "" for share, _ in cells)] for where, cells in rows]
    caption = f"Share of the front's {len(hybrids)} members that have the method in the layer."
    return Section(
        "Where methods sit", [Figure(heat_drawing(rows, names), caption, Table(["layer", *names], told, frozenset()))]
    )


def courses(run: Searched) -> Section:
    """Scores after each epoch."""
    drawing = course_drawing(run.front)
    return Section("Courses", [] if drawing is None else [Figure(drawing, "Validation score after each epoch.")])


def members(run: Searched) -> Section:
    """The members of the front, each whole."""
    picks = marks(run.front)
    blocks = []
    for e in run.front.points:
        key, facts = run.keys[e.key], facts_of(run, e)
        pick = f" ({picks[e.number]})" if e.number in picks else ""
        title = f"{named(e, run.keys)}{pick}: {e.candidate.hybrid.summary()}"
        blocks.append(More(title, list(_member(run, e, facts)), f"c{key}"))
    return Section("Members of the front", blocks)


def _member(run: Searched, e: Evaluation, facts: dict) -> Iterator[Block]:
    yield Text(f"{facts['role']}; {facts['words']}")
    if facts["doubt"]:
        yield Text(f"{facts['doubt'][0].upper()}{facts['doubt'][1:]}.")
    if len(facts["recipe"]) > 1:
        yield Items(facts["recipe"])
    grid = facts["grid"]
    if len(grid["columns"]) > 1:
        yield Table(grid["columns"], grid["rows"], frozenset(range(len(grid["columns"]))))
    yield Table(("score", "searched", "mean", "sd", "seeds"), list(score_rows(facts)), frozenset({0}))
    costs = [[spaced(name), amount(name, c["value"])] for name, c in facts["costs"].items()]
    yield Table(("cost", "value"), costs, frozenset({0}))
    if len(facts["curve"]) > 1:
        yield Text(f"By epoch, {run.front.score.metric}: {course_of(facts, run.front.score.metric)}")
    yield Code("\n".join(facts["commands"]))


def learned(run: Searched) -> Section:
    """What the score depends on, and what to change in a next search."""
    explanation = run.explanation
    if explanation is None:
        return Section(
            "What was learned", [Text(f"Nothing is explained: {run.unexplained}.")] if run.unexplained else []
        )
    advice = [f"{line[0].upper()}{line[1:]}." for line in explanation.advice]
    parts = [(spaced(name), share) for name, share in explanation.most(_PARTS) if share.total >= _LEAST]
    rows = [[name, *(f"{v:.3f}" for v in (s.total, s.first, s.forest))] for name, s in parts]
    table = Table(("part", "with interactions", "alone", "forest"), rows, frozenset({0}))
    title = f"Share of the variance of {spaced(explanation.score)}: with interactions, and alone (dark)."
    blocks: list[Block] = [Items(advice)] if advice else []
    blocks += [Figure(share_drawing(parts), title, table)] if parts else []
    warnings = [f"Warning: {line}." for line in explanation.warnings]
    return Section(
        "What was learned", [*blocks, *([Items(warnings)] if warnings else []), Text(belief(explanation), True)]
    )
