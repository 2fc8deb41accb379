"""`autopeft compare-runs`: the fronts of searches side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from autopeft.browsing.fronts import Fronts
from autopeft.browsing.fronts_plot import figure, save
from autopeft.cli.shown import safe
from autopeft.cli.tables import console, sentence, show, show_all
from autopeft.doors import door
from autopeft.run_folder import write_still, write_whole
from autopeft.searching.tables import UNCONFIRMED


def run_compare_runs(runs: Sequence[Path], out: Path | None, as_json: bool) -> None:
    """Write `fronts.html`, `fronts.png` and `fronts.json`, and print the tables, or the JSON."""
    fronts = Fronts.of(runs)
    first = Path(runs[0]).absolute()
    folder = out or first.parent / "-vs-".join(Path(run).absolute().name for run in runs)
    with door(folder, "cannot be written", "give another folder (--out)"):
        folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(fronts.to_json(), indent=2)
    write_whole(folder / "fronts.json", text + "\n")
    write_whole(folder / "fronts.html", figure(fronts).to_html(include_plotlyjs=True, full_html=True))
    write_still(folder / "fronts.png", lambda path: save(fronts, path))
    if as_json:
        print(text)
        return
    terminal = console()
    show(terminal, "Searches", fronts.columns())
    corner = ", ".join(f"{name} {value:,.4g}" for name, value in fronts.corner.items())
    sentence(terminal, f"hypervolume up to {corner}, divided by the cost's side", "dim")
    if any(pick.get("unconfirmed") for row in fronts.rows for pick in (row["best"], row["knee"])):
        sentence(
            terminal, f"{UNCONFIRMED} not confirmed: what is to be expected of one seed, as others had more", "dim"
        )
    if fronts.levels:
        terminal.print()
        show_all(terminal, f"Best {fronts.members[0].front.score.metric} under a limit", fronts.level_columns())
    if not fronts.same_data:
        sentence(terminal, "These searches were measured on different data: their scores are no comparison.")
    terminal.print(f"written to {safe(folder)}", soft_wrap=True)
