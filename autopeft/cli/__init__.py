"""The command line: one file a verb (or a few small ones), one line for every error."""

from __future__ import annotations

import sys
from types import TracebackType


def main() -> None:
    """Run the command; errors that a user can mend are one line and status 2, an interrupt is status 130."""
    import warnings

    # What libraries will change in their next version is no news for who uses this command.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)

    from autopeft.cli.app import app
    from autopeft.errors import AutopeftError
    from autopeft.secrets import hidden

    warnings.formatwarning = _warning
    sys.excepthook = _uncaught
    try:
        app()
    except AutopeftError as error:
        print(f"autopeft: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # A full disk, a file that is taken away: the system's own words, without a traceback.
        place = f" ({error.filename})" if error.filename else ""
        print(hidden(f"autopeft: error: {error.strerror or error}{place}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("autopeft: interrupted; a search goes on with the same command", file=sys.stderr)
        sys.exit(130)


def _warning(message: Warning | str, *_: object, **__: object) -> str:
    """One line, without the source line that gave it, and without secrets."""
    from autopeft.secrets import hidden

    return f"autopeft: warning: {hidden(' '.join(str(message).split()))}\n"


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The usual traceback, without secrets."""
    import traceback

    from autopeft.secrets import hidden

    sys.stderr.write(hidden("".join(traceback.format_exception(kind, error, trace))))
