"""A search as a document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autopeft.candidate import Evaluation
from autopeft.costs import amount
from autopeft.doors import door
from autopeft.reporting import asked, found
from autopeft.reporting.document import Document
from autopeft.reporting.page import to_html
from autopeft.reporting.pull_request import to_markdown
from autopeft.reporting.searched import Searched
from autopeft.searching.keys import named
from autopeft.searching.tables import mean_of
from autopeft.wording import counted, spaced
from autopeft.writing import replacing


def write(run: Searched, to: str | Path | None, markdown: bool = False) -> Path:
    """Write the page, or its Markdown twin, and return the file: `report.html` or `report.md` in the run folder."""
    name = Path(to) if to is not None else run.run / ("report.md" if markdown else "report.html")
    document = document_of(run)
    with door(name, "cannot be written", "give another file (to)"), replacing(name) as partial:
        partial.write_text(to_markdown(document) if markdown else to_html(document), encoding="utf-8")
    return name


def document_of(run: Searched) -> Document:
    """What was asked, what was found and how far to believe it, what it cost, and how to do it again."""
    sections = [
        asked.asked(run),
        found.front_section(run),
        found.gains(run),
        found.layers(run),
        found.courses(run),
        found.members(run),
        found.learned(run),
        asked.costs(run),
        asked.environment(run),
        asked.again(run),
    ]
    kept = [section for section in sections if section.blocks]
    return Document(f"Search {run.experiment.name}", list(_lead(run)), kept)


def _lead(run: Searched) -> Iterator[str]:
    front = run.front
    if run.experiment.description:
        yield run.experiment.description
    if not run.finished:
        yield f"This search has not come to its end: {len(run.evaluations)} candidates so far."
    if not front.points:
        yield "No finished candidate is within the budget."
        return
    yield f"{len(run.evaluations)} candidates were trained, and the front has {counted(len(front.points), 'member')}."
    best, knee = front.best(), front.knee()
    yield f"Best: {_said(run, best)}."
    if knee is not best:
        yield f"Knee, where more cost stops to pay: {_said(run, knee)}."


def _said(run: Searched, e: Evaluation) -> str:
    """Scores and cost of a member in a few words."""
    name = run.front.score.metric
    parts = [f"{spaced(name)} {_mean(run, e, name)}"]
    if test := _mean(run, e, f"test_{name}"):
        parts.append(f"{test} on test")
    cost = run.front.cost
    at = f" with {amount(cost.metric, e.metrics[cost.metric])} {spaced(cost.metric)}" if cost else ""
    return f"{' and '.join(parts)}{at} ({named(e, run.keys)}: {e.candidate.hybrid.summary()})"


def _mean(run: Searched, e: Evaluation, name: str) -> str:
    mark = " (not confirmed)" if e.number in run.front.verdict.expected else ""
    return mean_of(run.front, e, name, mark)
