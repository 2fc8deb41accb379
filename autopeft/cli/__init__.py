"""The command line: one file a verb (or a few small ones), one line for every error."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import NoReturn


def main() -> None:
    """Run the command; errors that a user can mend are one line and status 2, an interrupt is status 130."""
    import warnings

    # What libraries will change in their next version is no news for who uses this command.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)

    from autopeft.cli.app import app
    from autopeft.errors import AutopeftError

    try:
        app()
    except SystemExit as end:
        _leave(end.code)
    except AutopeftError as error:
        print(f"autopeft: error: {error}", file=sys.stderr)
        _leave(2)
    except OSError as error:
        # A full disk, a file that is taken away: the system's own words, without a traceback.
        place = f" ({error.filename})" if error.filename else ""
        print(f"autopeft: error: {error.strerror or error}{place}", file=sys.stderr)
        _leave(2)
    except KeyboardInterrupt:
        _leave(130)


def _leave(status: str | int | None) -> NoReturn:
    """Exit; without a word to Ray where its thread waits for a process that was killed: it would abort."""
    import os
    import threading

    if isinstance(status, int) and any(t.name in ("ray", "ray-shutdown") for t in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, AttributeError):
                stream.flush()
        os._exit(status)
    sys.exit(status)
