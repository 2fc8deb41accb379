"""`autopeft report`: a search on one page."""

from __future__ import annotations

from pathlib import Path

from autopeft.cli.heavy import at_work
from autopeft.cli.verbs import say
from autopeft.result import SearchResult


def run_report(run: Path, to: Path | None, markdown: bool, trust_remote_code: bool) -> None:
    """Write the page, and say where."""
    with at_work("writing the report", quiet=False):
        written = SearchResult.open(run).report(to, markdown=markdown, trust_remote_code=trust_remote_code)
    say(f"wrote {written}")
