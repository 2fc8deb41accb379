"""What `autopeft plan` says of rows that a language model learns from: an example, and how many tokens there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autopeft.engine.texts import Reader
from autopeft.formats import RowTokenizer, Totals, example_of, remarks, with_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from autopeft.session import Session
    from autopeft.tasks import TaskData


def written_facts(session: Session) -> dict[str, Any]:
    """Facts for the plan: `remarks`, and those of `facts_of` where the task's texts have no labels."""
    if not session.data.readout.tokenises:
        return {"remarks": list(session.remarks)}
    tokenizer = session.source.tokenizer()
    reader = Reader(tokenizer, session.experiment.training.max_length, session.source.limits())
    found = facts_of(session.data, tokenizer, reader.limit)
    return {**found, "remarks": [*session.remarks, *found["remarks"]]}


def facts_of(data: TaskData, tokenizer: PreTrainedTokenizerBase, limit: int) -> dict[str, Any]:
    """Of rows cut at `limit` tokens: `example` (of train), `tokens` (of each split), and `remarks`."""
    dressed = with_template(tokenizer, data.template)
    reader = RowTokenizer(dressed, limit)
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    totals = {name: Totals.of(reader.rows(split.first, split.at)) for name, split in parts.items()}
    turns = data.train.first[0].startswith('{"turns"')
    example = example_of(data.train.first, dressed, limit)
    return {
        "example": {**example.to_json(), "text": example.text},
        "tokens": {name: one.to_json() for name, one in totals.items()},
        "remarks": list(remarks(totals, dressed, turns)),
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
    if example := facts.get("example"):
        yield "an example", f"{example['tokens']:,} tokens, {example['scored']:,} scored (in [[ ]]):\n{example['text']}"
