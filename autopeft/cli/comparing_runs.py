"""`autopeft compare-runs`: the fronts of searches side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from autopeft.browsing.fronts import Fronts
from autopeft.browsing.fronts_plot import figure, save
from autopeft.cli.shown import safe
from autopeft.cli.tables import console, show
from autopeft.doors import door
from autopeft.run_folder import write_still, write_whole


def run_compare_runs(runs: Sequence[Path], out: Path | None, as_json: bool) -> None:
    """Write `fronts.html`, `fronts.png` and `fronts.json`, and print the tables, or the JSON."""
    fronts = Fronts.of(runs)
    first = Path(runs[0]).absolute()
    folder = out or first.parent / "-vs-".join(Path(run).absolute().name for run in runs)
    with door(folder, "cannot be written"):
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
    corner = ", ".join(f"{safe(name)} {value:,.4g}" for name, value in fronts.corner.items())
    terminal.print(f"[dim]hypervolume up to {corner}, divided by the cost's side[/]", soft_wrap=True)
    if fronts.levels:
        terminal.print()
        show(terminal, f"Best {fronts.members[0].front.score.metric} under a limit", fronts.level_columns())
    if not fronts.same_data:
        terminal.print("These searches were measured on different data: their scores are no comparison.")
    terminal.print(f"written to {safe(folder)}", soft_wrap=True)
