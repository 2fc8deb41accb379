"""Draw the front of a run folder as the README shows it: `python experiments/draw_front.py runs/NAME docs/front.svg`.

The drawing is the one of `autopeft report`, with its colours for light and dark inside the file.
"""

import re
import sys
from pathlib import Path

from autopeft import SearchResult
from autopeft.reporting.drawings import front_drawing
from autopeft.reporting.style import STYLE
from autopeft.searching.keys import short_keys

#: What the rules of a report that its drawings need begin with.
_DRAWN = (":root", "@media (prefers", "svg", ".label", ".grid", ".axis", ".dot", ".stairs", ".error")


def main(run: str, to: str) -> None:
    front = SearchResult.open(run).front
    drawing = str(front_drawing(front, short_keys(e.key for e in front.evaluations)))
    # A picture has nothing to lead to, and shows no title of its own.
    drawing = re.sub(r"</?a\b[^>]*>", "", drawing)
    drawing = re.sub(r' style="[^"]*"', ' width="720" height="400"', drawing, count=1)
    ground = '<rect width="100%" height="100%" fill="var(--ground)" rx="6"/>'
    style = "\n".join(rule for rule in re.split(r"(?<=\})\n", STYLE.strip()) if rule.startswith(_DRAWN))
    start = drawing.index(">") + 1
    Path(to).write_text(f"{drawing[:start]}<style>\n{style}\n</style>{ground}{drawing[start:]}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
