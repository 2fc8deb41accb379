"""`autopeft explain`: what a search has learned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from autopeft.cli.heavy import at_work
from autopeft.cli.tables import console, sentence, show, show_all
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.searching.explanation import Explanation, Share, belief, nothing_of, shares_by, telling
from autopeft.searching.tables import Column

_COLUMNS = ("surrogate, alone", "with interactions", "forest (fANOVA)")


def run_explain(run: Path, trust_remote_code: bool, as_json: bool, everything: bool = False) -> None:
    """Print the tables, and write the same and more into the run folder; what explains nothing is one line a table."""
    result = SearchResult.open(run)
    with at_work("working out what the score depends on", as_json):
        explanation = result.explain(trust_remote_code=trust_remote_code)
        files = RunFolder(result.run_dir).write_explanation(explanation)
    if as_json:
        print(json.dumps(explanation.to_json(), indent=2))
        return
    out = console()
    for name, shares in shares_by(explanation).items():
        kept = dict(shares) if everything else telling(shares)
        title = f"Share of the variance of {explanation.score} by {name}"
        if kept:
            show(out, title, _shares(name, kept))
        else:
            sentence(out, title, "italic")
        if left_out := len(shares) - len(kept):
            sentence(out, f"{nothing_of(name, len(shares), left_out)} (--all shows each)", "dim")
        out.print()
    title, columns, without = _front(explanation, everything)
    if columns[1:]:
        show_all(out, title, columns)
    else:
        sentence(out, title, "italic")
    if without:
        sentence(out, f"in no member: {', '.join(without)}", "dim")
    out.print()
    sentence(out, belief(explanation))
    for line in explanation.advice:
        sentence(out, line, mark="[bold]advice:[/] ")
    for line in explanation.warnings:
        sentence(out, line, mark="[yellow]warning:[/] ")
    for path in files:
        out.print(f"wrote {path}", soft_wrap=True, markup=False)


def _shares(name: str, shares: Mapping[str, Share]) -> list[Column]:
    """Layers in their order, others with the largest share first."""
    if name != "layer":
        shares = dict(sorted(shares.items(), key=lambda each: (-round(each[1].total, 3), -each[1].forest)))
    values = zip(*((share.first, share.total, share.forest) for share in shares.values()), strict=True)
    figures = [Column(header, [f"{v:.3f}" for v in own]) for header, own in zip(_COLUMNS, values, strict=True)]
    return [Column(name, list(shares), left=True), *figures]


def _front(explanation: Explanation, everything: bool) -> tuple[str, list[Column], list[str]]:
    """Layers by blocks, the share of the members that have it and its mean size; and blocks that none has."""
    use = explanation.front
    members = "only member" if use.members == 1 else f"{use.members} members"
    title = f"The {members} of the front: how many have the block in the layer (mean size)"
    if not use.counts.any():
        title += "; all adapt nothing but the head"
    known = {
        block: [f"{share:.0%} ({size:.3g})" if share else "" for share, size in zip(*both, strict=True)]
        for block, *both in zip(explanation.methods, use.shares.T, use.sizes.T, strict=True)
    }
    without = [] if everything else [block for block, cells in known.items() if not any(cells)]
    layers = Column("layer", [str(layer) for layer in range(len(use.counts))])
    return title, [layers, *(Column(block, cells) for block, cells in known.items() if block not in without)], without
