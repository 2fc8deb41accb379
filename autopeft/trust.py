"""Trust in the Python code that a model brings along.

A file can say that its model needs such code, and no more: whoever starts a command or calls a function gives the
trust, each time anew. `trusted` is the only source of it (a test holds that).
"""

from __future__ import annotations

from autopeft.errors import AutopeftError

#: How trust is given, for messages.
HOW = "give --trust-remote-code (in Python: trust_remote_code=True) if you trust it"


def trusted(needed: bool, given: bool, where: str) -> bool:
    """Whether a model's own code may run: as the caller says (`given`), whatever the file `where` says.

    `AutopeftError` when that file says that it is `needed`, and it is not given: without its code the model would be
    another one.
    """
    if needed and not given:
        raise AutopeftError(
            f"{where}: trust_remote_code: a file can't have a model's own code run; read that code, and {HOW}"
        )
    return given
