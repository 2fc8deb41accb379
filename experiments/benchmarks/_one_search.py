"""A search of the checkout that Python finds, in a process of its own: so an older one can be searched with.

Prints a line of JSON: when the process began and ended, in seconds since the epoch.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

BEGAN = time.time()

import typer  # noqa: E402 - the clock starts before anything is imported

import autopeft  # noqa: E402


def main(run: Path, experiment: Annotated[str, typer.Option(help="JSON: the fields of the experiment.")]) -> None:
    """Search, with everything that a search writes."""
    autopeft.search(out=run, quiet=True, **json.loads(experiment))
    print(json.dumps({"began": BEGAN, "ended": time.time()}))


if __name__ == "__main__":
    typer.run(main)
