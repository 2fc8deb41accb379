"""How MLflow is called: briefly, quietly, and with the errors that it is known to raise."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: MLflow's settings around our calls, where the user has not set them. Its own patience is minutes.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
#: Loggers that talk to the terminal of migrations and of failures; what matters is raised as well.
_LEVELS = {"mlflow": logging.CRITICAL, "alembic": logging.WARNING, "urllib3.connectionpool": logging.ERROR}
_ERROR_LENGTH = 300
# The settings are the process's, so only one thread at a time may change them and change them back.
_LOCK = threading.RLock()


@contextmanager
def our_calls() -> Iterator[None]:
    """MLflow is quiet and has little patience inside; its settings are as before outside."""
    import mlflow  # noqa: F401 - its import sets levels that would undo ours

    with _LOCK:
        unset = {k: v for k, v in _ENVIRONMENT.items() if k not in os.environ}
        loggers = [(logging.getLogger(name), level) for name, level in _LEVELS.items()]
        before = [logger.level for logger, _ in loggers]
        os.environ.update(unset)
        for logger, level in loggers:
            logger.setLevel(max(level, logger.level))
        try:
            yield
        finally:
            for (logger, _), level in zip(loggers, before, strict=True):
                logger.setLevel(level)
            for key in unset:
                os.environ.pop(key, None)


def failures() -> tuple[type[Exception], ...]:
    """What MLflow raises when its store or server fails (OSErrors: uploads; ImportErrors: a database's driver)."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError, ImportError


def refused(error: Exception) -> bool:
    """Whether the store is well but does not take this content (so that trying again is no use)."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST")


def one_line(error: Exception) -> str:
    """The error's message as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _ERROR_LENGTH else text[: _ERROR_LENGTH - 1] + "…"
