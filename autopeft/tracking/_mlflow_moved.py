"""A store that was moved or copied with its files: MLflow writes down absolute paths, which are mended here."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from autopeft.doors import door
from autopeft.tracking._mlflow_uri import FOLDER, Place

#: Tables and columns that hold addresses of files.
_COLUMNS = (
    *(("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")),
    *(("model_versions", "source"), ("model_versions", "storage_location")),
)


def relocate(place: Place) -> None:
    """Let the addresses of files say where the files are now: beside the database, if they are not where they were.

    Of a copy whose files came along, too, so that it has its own. Nothing but SQLite has its files beside it.
    """
    if place.file is None or not place.file.is_file():
        return
    here = place.file.parent / FOLDER
    with (
        door(f"tracking: MLflow's database {place.file}", "can't be written", "make it writable"),
        closing(sqlite3.connect(place.file)) as connection,
    ):
        for location in _elsewhere(connection, here):
            for table, column in _COLUMNS:
                # An older version has not all of them.
                with suppress(sqlite3.OperationalError):
                    _replace(connection, table, column, location, here.as_uri())
        connection.commit()


def _elsewhere(connection: sqlite3.Connection, here: Path) -> list[str]:
    """Where experiments have their files, if that is gone, or the files are here too."""
    with suppress(sqlite3.OperationalError):
        found = connection.execute("SELECT DISTINCT experiment_id, artifact_location FROM experiments").fetchall()
        left = [(number, where) for number, where in found if where and _is_left(where, here)]
        return [where for number, where in left if _is_here(connection, number, where, here)]
    return []


def _is_left(location: str, here: Path) -> bool:
    """Whether that is a folder like this one, in another place."""
    folder = Path(unquote(urlsplit(location).path))
    return location.startswith("file:") and folder.name == FOLDER and folder != here


def _is_here(connection: sqlite3.Connection, experiment: int, location: str, here: Path) -> bool:
    if not Path(unquote(urlsplit(location).path)).is_dir():
        return True
    runs = connection.execute("SELECT artifact_uri FROM runs WHERE experiment_id = ?", (experiment,))
    parts = (uri.removeprefix(location).strip("/") for (uri,) in runs if uri and uri.startswith(location))
    return any((here / unquote(part)).is_dir() for part in parts)


def _replace(connection: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    begins = f"{column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'"
    connection.execute(
        f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) WHERE {begins}",
        {"old": old, "new": new},
    )
