"""`autopeft watch`: a search that runs, seen from another shell or in a browser."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Annotated

from autopeft.cli.options import Plugins, Run, flag, number

if TYPE_CHECKING:
    from autopeft.watching.folder import Watched

#: Seconds between two looks, and of silence where nothing has changed.
_LOOK, _SILENCE = 1.0, 15.0


def watch(
    run: Run,
    web: Annotated[bool, flag("--web", help="A page on this machine only, which takes requests too.")] = False,
    port: Annotated[int, number(0, 65_535, help="Of the page, on 127.0.0.1; 0: any.")] = 0,
    once: Annotated[bool, flag("--once", help="Show it as it is now, and end.")] = False,
    plugins: Plugins = None,
) -> None:
    """Watch a search that runs, from another shell or (--web) in a browser; Ctrl-C ends the watching only."""
    from autopeft.cli.signals import ended_by_signals
    from autopeft.run_folder import RunFolder
    from autopeft.watching.folder import Watched

    with ended_by_signals("the search goes on"):
        folder = RunFolder.existing(run)
        watched = Watched(folder.path, folder.experiment())
        if web:
            _serve(watched, port)
        elif once:
            _once(watched)
        else:
            _watch(watched)


def _once(watched: Watched) -> None:
    from rich.console import Console

    from autopeft.watching.view import render, status

    console = Console(highlight=False)
    picture, now = watched.picture(), watched.now()
    if console.is_terminal:
        console.print(render(picture, now, console))
    else:
        print(status(picture, now))


def _watch(watched: Watched) -> None:
    """A view that changes in a terminal, else a line where something has changed; until the search has ended."""
    from rich.console import Console
    from rich.live import Live

    from autopeft.watching.view import render

    console = Console(highlight=False)
    if not console.is_terminal:
        _lines(watched)
        return
    drawn = render(watched.picture(), watched.now(), console)
    with Live(drawn, console=console, auto_refresh=False) as live:
        while watched.now().lives:
            time.sleep(_LOOK)
            live.update(render(watched.picture(), watched.now(), console), refresh=True)


def _lines(watched: Watched) -> None:
    from autopeft.watching.view import status

    before, said = None, 0.0
    while True:
        picture, now = watched.picture(), watched.now()
        what = None if picture is None else sum(picture.counts.values()), now.phase
        if what != before or time.monotonic() - said >= _SILENCE:
            print(status(picture, now), flush=True)
            before, said = what, time.monotonic()
        if not now.lives:
            return
        time.sleep(_LOOK)


def _serve(watched: Watched, port: int) -> None:
    from autopeft.cli.verbs import say
    from autopeft.watching.server import Server

    with Server(watched, port) as server:
        threading.Thread(target=server.serve_forever, name="autopeft-page", daemon=True).start()
        say(f"watch it at {server.address} (Ctrl-C ends the page; the search goes on)")
        try:
            # Until a signal; a thread serves meanwhile.
            threading.Event().wait()
        finally:
            server.shutdown()
