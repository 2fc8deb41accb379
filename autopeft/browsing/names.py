"""What a registered model may be called. Nothing heavy is imported for that."""

from __future__ import annotations

import re

from autopeft.errors import AutopeftError

#: MLflow's own limits of a name, and no characters that a shell or an address would take for something else.
_NAME = re.compile(r"[^/:\"'<>%\s][^/:\"'<>%]{0,199}")


def check_name(name: str) -> None:
    """`AutopeftError` for what no registered model can be called."""
    if not _NAME.fullmatch(name) or not name.isprintable():
        raise AutopeftError(f"--register: '{name}' is no name of a model; take letters, digits, '-', '_' and '.'")
