"""`autopeft explain`: what a search has learned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from autopeft.cli.shown import safe
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.searching.explanation import Explanation, Share, belief, shares_by

_COLUMNS = ("surrogate, alone", "with interactions", "forest (fANOVA)")


def run_explain(run: Path, trust_remote_code: bool, as_json: bool) -> None:
    """Print the tables, and write the same and more into the run folder."""
    result = SearchResult.open(run)
    explanation = result.explain(trust_remote_code=trust_remote_code)
    files = RunFolder(result.run_dir).write_explanation(explanation)
    if as_json:
        print(json.dumps(explanation.to_json(), indent=2))
        return
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=140)
    for table in tables(explanation):
        out.print(table)
    out.print(belief(explanation), soft_wrap=True)
    for line in explanation.advice:
        out.print(f"[bold]advice:[/] {safe(line)}", soft_wrap=True)
    for line in explanation.warnings:
        out.print(f"[yellow]warning:[/] {safe(line)}", soft_wrap=True)
    out.print(f"wrote {', '.join(str(path) for path in files)}", soft_wrap=True, markup=False)


def tables(explanation: Explanation) -> list[Table]:
    """Shares by layer, by block and by training hyper-parameter, then what the front is made of."""
    title = f"Share of the variance of {explanation.score} by "
    return [_shares(title + name, name, shares) for name, shares in shares_by(explanation).items()] + [
        _front(explanation)
    ]


def _shares(title: str, name: str, shares: Mapping[str, Share]) -> Table:
    table = Table(title=safe(title), title_justify="left", header_style="bold")
    table.add_column(name)
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for part, share in shares.items():
        table.add_row(safe(part), *(f"{value:.3f}" for value in (share.first, share.total, share.forest)))
    return table


def _front(explanation: Explanation) -> Table:
    """Layers by blocks: the share of the members that have it, and its mean size."""
    use = explanation.front
    members = "only member" if use.members == 1 else f"{use.members} members"
    title = f"The {members} of the front: how many have the block in the layer (mean size)"
    if not use.counts.any():
        title += "; all adapt nothing but the head"
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("layer", *explanation.methods):
        table.add_column(safe(column), justify="right")
    for layer in range(len(use.counts)):
        cells = np.stack([use.shares[layer], use.sizes[layer]], axis=1)
        table.add_row(str(layer), *(f"{share:.0%} ({size:.3g})" if share else "" for share, size in cells))
    return table
