"""The command line: one file a verb (or a few small ones), one line for every error."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

#: What the machine refuses, and no mistake of ours: a full disk, a file that may not be written, a closed pipe.
_MACHINES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EPIPE),
    *(errno.ENOMEM, errno.EMFILE, errno.ENFILE),
}


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

    warnings.formatwarning = _warning
    sys.excepthook = _uncaught
    try:
        app()
    except SystemExit as end:
        _leave(end.code)
    except AutopeftError as error:
        _end(f"error: {error}", 2)
    except KeyboardInterrupt:
        _leave(130)
    except Exception as error:
        if os.environ.get("AUTOPEFT_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.errno in _MACHINES:
            # The system's own words, without a traceback.
            place = f" ({error.filename})" if error.filename else ""
            _end(f"error: {error.strerror or error}{place}", 2)
        _end(f"bug: {_report(error)}", 70)


def _end(text: str, status: int) -> NoReturn:
    """Say it on one line, without secrets, and exit."""
    from autopeft.cli.shown import wrapped
    from autopeft.secrets import hidden

    print(wrapped(hidden(f"autopeft: {text}"), sys.stderr), file=sys.stderr)
    _leave(status)


def _report(error: Exception) -> str:
    """Write the traceback to a file; what happened, and where that file is, in one line."""
    import tempfile

    from autopeft.errors import one_line

    what = one_line(f"{type(error).__name__}: {error}")
    with tempfile.NamedTemporaryFile("w", prefix="autopeft-", suffix=".txt", delete=False, errors="replace") as file:
        file.write(_traceback(error))
    return f"{what}; this is a mistake of autopeft's own: please report it with {file.name}"


def _warning(message: Warning | str, *_: object, **__: object) -> str:
    """One line, without the source line that gave it, and without secrets."""
    from autopeft.cli.shown import wrapped
    from autopeft.secrets import hidden

    return wrapped(f"autopeft: warning: {hidden(' '.join(str(message).split()))}", sys.stderr) + "\n"


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The usual traceback, without secrets."""
    sys.stderr.write(_traceback(error))


def _traceback(error: BaseException) -> str:
    import traceback

    from autopeft.secrets import hidden

    return hidden("".join(traceback.format_exception(error)))


def _written_out() -> bool:
    """Whether somebody read what was written; `head` does not to the end, which is no mistake and needs no word."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would try again when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    except (OSError, ValueError, AttributeError):
        # A full disk, a closed stream, or none: Python says so itself where there is something to say.
        pass
    return True


def _leave(status: str | int | None) -> NoReturn:
    """Exit; without a word to Ray where its thread waits for a process that was killed: it would abort."""
    import threading

    if not _written_out():
        # As typer and rich end where the pipe breaks while something is written.
        status = 1
    if isinstance(status, int) and any(t.name in ("ray", "ray-shutdown") for t in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, AttributeError):
                stream.flush()
        os._exit(status)
    sys.exit(status)
