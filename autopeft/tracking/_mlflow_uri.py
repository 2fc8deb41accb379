"""Where MLflow stores: the default place, and what the address of a place may look like."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from autopeft.errors import AutopeftError
from autopeft.secrets import holds_secret, remember

#: The kinds of database that MLflow takes beside SQLite, with their ports.
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SQLITE = re.compile(r"^(?P<head>sqlite(\+\w+)?:///)(?P<path>[^?]*)(?P<query>\?.*)?$")
_SERVER = re.compile(
    r"^(?P<scheme>https?)://(?:(?P<user>[^/?#@]*)@)?(?P<host>\[[0-9a-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?"
    r"(?P<path>/[^?#@;]*)?$",
    re.IGNORECASE,
)
_DATABASE = re.compile(
    r"^(?P<scheme>[a-z]+(\+\w+)?)://(?:(?P<user>[^/?#@]*)@)?(?P<host>\[[0-9a-f:.]+\]|[\w.-]*)(?::(?P<port>\d{1,5}))?"
    r"(?P<path>/[^/?#@;]*)?(?:\?(?P<query>[^#]*))?$",
    re.IGNORECASE,
)
#: Options of a database that a file may hold, as none of them is a secret.
_OPTIONS = {
    *("charset", "connect_timeout", "application_name", "sslmode", "sslrootcert", "sslcert", "ssl_ca", "ssl_cert"),
    *("driver", "Encrypt", "TrustServerCertificate", "timeout", "mode", "cache", "uri", "isolation_level"),
}
# SQLAlchemy decodes what MLflow does not: two files.
_ENCODED = re.compile(r"%[0-9a-f]{2}", re.IGNORECASE)
_LONGEST = 2000
_FILE = "mlflow.db"
#: The folder of files beside a database.
FOLDER = "mlartifacts"
#: What is written beside a database, and by SQLite, with `{}` for its name.
_BESIDE = ("{}", ".{}.lock", "{}-journal", "{}-wal", "{}-shm", FOLDER)
_VARIABLE = "MLFLOW_TRACKING_URI"
#: The variables that MLflow takes a server's user or token from.
_CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


@dataclass(frozen=True)
class Place:
    """A store. `uri` is for MLflow alone, as a database's may hold a password; `shown` is for everything else.

    `source` is what gave the address. `environment` are the variables that MLflow takes a server's user from.
    `bounded`: files are written beside the database only, as its rows, which say where, may be a stranger's.
    """

    uri: str = field(repr=False)
    shown: str
    source: str = "uri"
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    bounded: bool = False

    @property
    def is_server(self) -> bool:
        """Whether an MLflow server is behind that address, rather than a database."""
        return self.scheme in ("http", "https")

    @property
    def scheme(self) -> str:
        """The address's scheme, without the driver of a database."""
        return self.uri.partition(":")[0].partition("+")[0]

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database; None for other places."""
        match = _SQLITE.match(self.uri)
        return Path(match["path"]) if match else None


def resolve(uri: str | None, run_dir: Path, search_id: str = "") -> Place:
    """The given place, else that of MLFLOW_TRACKING_URI, else SQLite in the run folder.

    Searches of earlier versions have it beside their folders: that is the place of a `search_id` that it holds.
    `AutopeftError` for an address that can't be one. A relative SQLite path is made absolute, as the working directory
    of whoever opens it later is another.
    """
    if uri:
        return place_of(uri, "uri")
    if (from_environment := given()) is not None:
        return from_environment
    path, beside = run_dir.absolute() / _FILE, run_dir.absolute().parent / _FILE
    if not path.exists() and search_id and holds(beside, search_id):
        path = beside
    return in_file(path)


def given() -> Place | None:
    """What MLFLOW_TRACKING_URI names; None where it is not set."""
    uri = os.environ.get(_VARIABLE, "").strip()
    return place_of(uri, _VARIABLE) if uri else None


def in_file(path: Path) -> Place:
    """SQLite in that file; `AutopeftError` where no address can be written for it."""
    if "?" in str(path) or _ENCODED.search(str(path)):
        raise AutopeftError(f"tracking: no address can be written for {path} ('?', '%'); set tracking.uri")
    return bounded(place_of(f"sqlite:///{path.absolute().as_posix()}", "default"))


def bounded(place: Place) -> Place:
    """The place of a database that may have come with a folder; other places than SQLite's are as they were.

    `AutopeftError` where it, or what is written beside it, is a link: whoever made the folder chose its target.
    """
    if place.file is None:
        return place
    for name in _BESIDE:
        path = place.file.with_name(name.format(place.file.name))
        if path.is_symlink():
            raise AutopeftError(
                f"tracking: {path} is a link, and nothing is written through links in a run folder; take it away, "
                f"or name the database in {_VARIABLE} if it is yours"
            )
    return replace(place, bounded=True)


def holds(database: Path, search_id: str) -> bool:
    """Whether the search is in that database; what can't be read holds nothing."""
    if not database.is_file():
        return False
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        asked = "SELECT 1 FROM tags WHERE key = 'autopeft.search_id' AND value = ? LIMIT 1"
        return connection.execute(asked, (search_id,)).fetchone() is not None
    return False


def place_of(uri: str, source: str) -> Place:
    """The place of an address; `AutopeftError`, which repeats no more than its scheme, for what can't be one."""
    uri = uri.strip()
    scheme, colon, rest = uri.partition(":")
    uri = scheme.lower() + colon + rest
    kind = scheme.lower().partition("+")[0]
    remember(uri)
    if len(uri) > _LONGEST:
        raise _wrong(source, f"an address of {len(uri):,} characters (at most {_LONGEST:,})")
    if not uri.isprintable():
        raise _wrong(source, "an address with a line's end or a control character in it")
    if kind in ("http", "https"):
        return _server(uri, source)
    if kind == "sqlite":
        return _sqlite(uri, source)
    if kind in PORTS:
        return _database(uri, source)
    plain = re.fullmatch(r"[\w:/.-]{1,100}", uri) is not None
    return Place(uri, uri if plain else f"{scheme}://…" if rest.startswith("//") else "…", source)


def check_for_a_file(uri: str) -> None:
    """`AutopeftError` for an address that can't be one, and for one with a secret: a configuration is written down."""
    place = place_of(uri, "uri")
    if place.environment:
        raise _wrong(
            "uri",
            f"a user or password does not belong into a file; take it out of this address, and set {_CREDENTIALS}",
        )
    database = _DATABASE.match(uri.strip())
    options = {key for key, _ in parse_qsl(uri.partition("?")[2], keep_blank_values=True)} - _OPTIONS
    if place.scheme in PORTS and database is not None:
        secret = ":" in (database["user"] or "") or bool(options)
    else:
        secret = bool(options) or (place.file is None and ("@" in uri or holds_secret(uri)))
    if secret:
        raise _wrong(
            "uri", f"a password or token does not belong into a file; take the address out, and set it as {_VARIABLE}"
        )


def _wrong(source: str, what: str) -> AutopeftError:
    return AutopeftError(f"tracking: {source}: {what}")


def _server(uri: str, source: str) -> Place:
    match = _SERVER.match(uri)
    if match is None or not 0 < int(match["port"] or 80) < 2**16:
        encoded = "" if source == "uri" else " (or percent-encode what is in the address: / as %2F, @ as %40)"
        raise _wrong(
            source,
            "not the address of a server; write http://<host>:<port>, without user, token or options; "
            f"a secret is set as {_CREDENTIALS}{encoded}",
        )
    port = f":{int(match['port'])}" if match["port"] else ""
    clean = f"{match['scheme']}://{match['host']}{port}{match['path'] or ''}".rstrip("/")
    if match["user"] is None:
        return Place(clean, clean, source)
    user, _, password = (unquote(part) for part in match["user"].partition(":"))
    if not (user and password) and not os.environ.get("MLFLOW_TRACKING_PASSWORD"):
        raise _wrong(source, f"a user without a password, or a password without a user; set {_CREDENTIALS}")
    environment = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    return Place(clean, clean, source, {name: value for name, value in environment.items() if value})


def _sqlite(uri: str, source: str) -> Place:
    match = _SQLITE.match(uri)
    if match is None or match["path"] in ("", "/", ":memory:") or "mode=memory" in (match["query"] or ""):
        raise _wrong(source, "names no file; write sqlite:///<file>, or set tracking: none")
    if _ENCODED.search(match["path"]):
        raise _wrong(source, "a file's name with '%' in it; write it as it is, not percent-encoded")
    path = Path(match["path"]).absolute().as_posix()
    return Place(f"{match['head']}{path}{match['query'] or ''}", f"{match['head']}{path}", source)


def _database(uri: str, source: str) -> Place:
    match = _DATABASE.match(uri)
    scheme = uri.partition(":")[0]
    if match is None or " " in uri or not 0 < int(match["port"] or 1) < 2**16:
        form = f"{scheme}://<host>:<port>/<name>"
        raise _wrong(
            source, f"not the address of a database; write {form}, user and password percent-encoded (@ as %40)"
        )
    port = f":{match['port']}" if match["port"] else ""
    return Place(uri, f"{scheme}://{match['host']}{port}{match['path'] or ''}", source)
