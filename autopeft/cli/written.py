"""What `autopeft plan` says of rows that a language model learns from: an example, and how many tokens there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autopeft.engine.targets import row_tokenizer
from autopeft.engine.texts import Reader
from autopeft.formats import Example, example_of, with_template

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.session import Session


def written_facts(session: Session) -> dict[str, Any]:
    """Facts for the plan: those of `facts_of` where the task's texts are conversations."""
    if not session.data.readout.tokenises or session.data.readout.masks:
        return {}
    tokenizer = with_template(session.source.tokenizer(), session.data.template)
    reader = Reader(tokenizer, session.experiment.training.max_length, session.source.limits())
    rows = row_tokenizer(reader, session.data.readout)
    return facts_of(session.tokens, example_of(session.data.train.first, rows))


def facts_of(task: TokenizedTask, example: Example) -> dict[str, Any]:
    """`example` (of train) and `tokens` (of each split)."""
    return {
        "example": {**example.to_json(), "text": example.text},
        "tokens": {name: one.to_json() for name, one in task.totals.items()},
        **({} if task.asking is None else {"generation": task.asking.described()}),
    }


def lines_of(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The same in words, for a table."""
    for split, one in facts.get("tokens", {}).items():
        share = one["scored"] / max(1, one["tokens"])
        cut = f"; {one['share_cut']:.1%} cut, in {one['rows_cut']:,} rows" if one["cut"] else "; none cut"
        yield (
            f"tokens of {split}",
            f"{one['tokens']:,} in {one['rows']:,} rows ({share:.0%} scored), {one['longest']:,} in the longest{cut}",
        )
    if written := facts.get("generation"):
        yield "texts that are measured", written
    if example := facts.get("example"):
        yield "an example", f"{example['tokens']:,} tokens, {example['scored']:,} scored (in [[ ]]):\n{example['text']}"
