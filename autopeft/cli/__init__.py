"""The command line: one file a verb (or a few small ones), one line for every error."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command; errors that a user can mend are one line and status 2, an interrupt is status 130.

    Our own mistakes are one line and status 70 (EX_SOFTWARE of sysexits.h), and a file to report.
    """
    import warnings

    # What libraries will change in their next version is no news for who uses this command.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)

    from autopeft.cli.app import app
    from autopeft.errors import AutopeftError

    try:
        app()
    except AutopeftError as error:
        print(f"autopeft: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # A full disk, a file that is taken away: the system's own words, without a traceback.
        place = f" ({error.filename})" if error.filename else ""
        print(f"autopeft: error: {error.strerror or error}{place}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("autopeft: interrupted; a search goes on with the same command", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("AUTOPEFT_TRACEBACK"):
            raise
        print(f"autopeft: bug: {_report(error)}", file=sys.stderr)
        sys.exit(70)


def _report(error: Exception) -> str:
    """Write the traceback to a file; what happened, and where that file is, in one line."""
    import tempfile
    import traceback

    from autopeft.errors import one_line

    what = one_line(f"{type(error).__name__}: {error}")
    with tempfile.NamedTemporaryFile("w", prefix="autopeft-", suffix=".txt", delete=False, errors="replace") as file:
        file.writelines(traceback.format_exception(error))
    return f"{what}; this is a mistake of autopeft's own: please report it with {file.name}"
