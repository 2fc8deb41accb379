"""A quick look whether a place can be used at all.

MLflow's own attempts at a place that is not there take minutes, so they are not waited for.
"""

from __future__ import annotations

import socket
import sqlite3
import ssl
import threading
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from autopeft.doors import door, reason
from autopeft.errors import AutopeftError
from autopeft.tracking._mlflow_uri import PORTS, Place

_TIMEOUT_S = 3.0
#: Seconds for a database to be written to by others, and for one to take a user.
_PATIENCE_S = 5.0
#: Tables of MLflow since its first version.
_TABLES = {"experiments", "runs", "metrics", "params", "tags"}


def check_place(place: Place) -> None:
    """`AutopeftError` when the place can't be used, as far as a few seconds tell."""
    if place.is_server:
        _check_server(place)
    elif place.file is not None:
        _check_sqlite(place, place.file)
    elif place.scheme in PORTS:
        _check_database(place)
    elif place.scheme not in {"databricks", *(e.name for e in entry_points(group="mlflow.tracking_store"))}:
        raise AutopeftError(
            f"tracking: {place.source}: MLflow can't store to '{place.shown}'; "
            "write sqlite:///<file>, or http://<host>:<port> of an MLflow server"
        )


def _check_server(place: Place) -> None:
    """Any HTTP answer of the server's own will do."""
    request = Request(f"{place.uri}/health", headers={"User-Agent": "autopeft"})
    try:
        with urlopen(request, timeout=_TIMEOUT_S):
            return
    except HTTPError as error:
        if error.code < 500:  # e.g. 401 or 404 of a proxy: there is a server, and MLflow knows how to talk to it
            return
        why = f"HTTP {error.code}"
    except Exception as error:
        cause = getattr(error, "reason", error) if isinstance(error, URLError) else error
        if isinstance(cause, ssl.SSLError):  # MLflow may have been told of other certificates
            return
        why = reason(cause) if isinstance(cause, BaseException) else str(cause)
    raise AutopeftError(
        f"tracking: MLflow server {place.shown} does not answer ({why}); "
        "start it with 'mlflow server', or set tracking: none"
    )


def _check_sqlite(place: Place, path: Path) -> None:
    with door(
        f"tracking: MLflow's database {path}",
        "can't be written",
        "set tracking.uri to another place, or tracking: none",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise AutopeftError(f"tracking: {path} is no file; set tracking.uri to one, or tracking: none")
        if "+" in place.uri.partition(":")[0]:
            import sqlalchemy

            sqlalchemy.create_engine(place.uri)  # raises when its driver is not there
        try:
            with closing(sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None)) as connection:
                tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise AutopeftError(
                f"tracking: MLflow's database {path} is locked by another process; "
                "end what holds it, and try again, or set tracking: none"
            ) from None
    if tables and not tables >= _TABLES:
        what = "holds something else" if tables.isdisjoint(_TABLES) else "was left half-made"
        raise AutopeftError(
            f"tracking: the database {path} {what}, not MLflow's tables; "
            "set tracking.uri to another file, or delete this one if nothing in it is needed"
        )


def _check_database(place: Place) -> None:
    """Whether it answers, and takes the user: MLflow would try for minutes."""
    with door(f"tracking: MLflow's database {place.shown}", "does not answer", "start it, or set tracking: none"):
        parts = urlsplit(place.uri)
        if parts.hostname:
            with socket.create_connection((parts.hostname, parts.port or PORTS[place.scheme]), timeout=_TIMEOUT_S):
                pass
    trouble: list[BaseException] = [TimeoutError(f"no answer within {_PATIENCE_S:.0f} s")]
    # Drivers know no common time limit, and something else may listen there.
    thread = threading.Thread(target=_connect, args=(place.uri, trouble), daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    with door(
        f"tracking: MLflow's database {place.shown}",
        "can't be used",
        "mend its address, user or driver, or set tracking: none",
    ):
        if trouble:
            raise trouble[0]


def _connect(uri: str, trouble: list[BaseException]) -> None:
    """Connect and leave; what goes wrong takes the place of what stands in `trouble`, else nothing stands there."""
    try:
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
        with engine.connect():
            trouble.clear()
    except Exception as error:
        trouble[:] = [error]
