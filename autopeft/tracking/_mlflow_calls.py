"""How MLflow is called: briefly, quietly, and with the user that its place has."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopeft.secrets import hidden
from autopeft.tracking._mlflow_uri import Place

#: MLflow's settings around our calls, where the user has not set them. Its own patience is minutes.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
#: Loggers that talk to the terminal of migrations and of failures; what matters is raised as well.
_LEVELS = {"mlflow": logging.CRITICAL, "alembic": logging.WARNING, "urllib3.connectionpool": logging.ERROR}
_ERROR_LENGTH = 300
# The settings are the process's, so only one thread at a time may change them and change them back.
_LOCK = threading.RLock()


@contextmanager
def our_calls(place: Place | None = None) -> Iterator[None]:
    """MLflow is quiet and has little patience inside; its settings are as before outside."""
    import mlflow  # noqa: F401 - its import sets levels that would undo ours

    with _LOCK:
        ours = {k: v for k, v in _ENVIRONMENT.items() if k not in os.environ} | dict(place.environment if place else {})
        variables = {k: os.environ.get(k) for k in ours}
        loggers = [(logging.getLogger(name), level) for name, level in _LEVELS.items()]
        levels = [logger.level for logger, _ in loggers]
        os.environ.update(ours)
        for logger, level in loggers:
            logger.setLevel(max(level, logger.level))
        try:
            yield
        finally:
            for (logger, _), level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            for key, value in variables.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


def refused(error: Exception) -> bool:
    """Whether the store is well but does not take this content (so that trying again is no use)."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST")


def one_line(error: BaseException) -> str:
    """The error's message as one line of bounded length, without secrets, and without SQL."""
    said = re.split(r"\s*\[SQL:|\s*\(Background on this error", str(error))[0]
    text = hidden(" ".join(said.split()) or type(error).__name__)
    text = _of_another_version(text) or text
    return text if len(text) <= _ERROR_LENGTH else text[: _ERROR_LENGTH - 1] + "…"


def _of_another_version(text: str) -> str | None:
    """What MLflow means when it can't read a database's version; it calls a newer one out of date, too."""
    import mlflow

    found = re.search(r"found version (\w+), but|locate revision identified by '(\w+)'", text)
    if found is None:
        return None
    revision = found[1] or found[2]
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(migrations.glob(f"{revision}*.py")):
        return "an older MLflow made it; keep a copy of it, then run 'mlflow db upgrade <its address>'"
    return f"MLflow {mlflow.__version__} does not know its version {revision}; a newer one made it, or it is damaged"
