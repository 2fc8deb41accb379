"""What takes a verb seconds, such as what is imported when it runs, is said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from autopeft.doing import doing


@contextmanager
def at_work(what: str, quiet: bool) -> Iterator[None]:
    """Inside, this is done; where it takes a while it is said on standard error, unless quiet."""
    from autopeft.watching.telling import telling

    with telling(quiet), doing(what):
        yield


@contextmanager
def loading(quiet: bool) -> Iterator[None]:
    """Inside, a verb is imported; that is said at once on standard error, unless quiet, if torch comes with it."""
    from autopeft.watching.telling import telling

    with telling(quiet) as teller, doing("loading torch and transformers") as stage:
        if teller is not None and "torch" not in sys.modules:
            teller.begun(stage)
        yield
