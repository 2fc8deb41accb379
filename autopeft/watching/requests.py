"""What may be asked of a running search from outside: files in its run folder, which hold data and nothing else."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from autopeft.candidate import Candidate
from autopeft.config import Strict, parse
from autopeft.doors import door, read_json
from autopeft.errors import AutopeftError
from autopeft.writing import replacing

#: The folder in a run folder, and the names of files in it; others are nobody's.
FOLDER = "requests"
_NAME = re.compile(r"[0-9a-f]{32}\.json")
#: Bytes of a request, and how many are looked at.
_MOST_BYTES, _MOST = 2**20, 1_000
_MOST_NUMBER = 10**9


class Stop(Strict):
    """Stop a candidate after its epoch."""

    kind: Literal["stop"] = "stop"
    number: int = Field(ge=0, le=_MOST_NUMBER)


class Enqueue(Strict):
    """Train this candidate next: `{"hybrid": ..., "training": {...}}`."""

    kind: Literal["enqueue"] = "enqueue"
    candidate: dict[str, Any]


class End(Strict):
    """Begin no more trainings of the search; what follows it (other seeds, test scores) follows."""

    kind: Literal["end"] = "end"


Request = Stop | Enqueue | End
_KINDS: dict[str, type[Stop] | type[Enqueue] | type[End]] = {"stop": Stop, "enqueue": Enqueue, "end": End}


class _Kind(Strict):
    kind: Annotated[str, Field(max_length=20)]


def request_of(data: dict[str, Any], where: str) -> Request:
    """The request that plain data are; `AutopeftError` for other data."""
    kind = parse(_Kind, {"kind": data.get("kind")}, where).kind
    if kind not in _KINDS:
        raise AutopeftError(f"{where}: unknown kind of request; known: {', '.join(_KINDS)}")
    request = parse(_KINDS[kind], data, where)
    if isinstance(request, Enqueue):
        candidate_of(request)
    return request


def candidate_of(request: Enqueue) -> Candidate:
    """What it asks to be trained; a hybrid alone is trained at the settings' own rates."""
    data = request.candidate
    whole = {"hybrid": data, "training": {}} if "layers" in data else {"training": {}, **data}
    return Candidate.from_json(whole)


def put(run: Path, request: Request) -> str:
    """Leave a request in a run folder; its name."""
    folder = run / FOLDER
    with door(folder, "cannot be written"):
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise AutopeftError(f"{folder}: is a link, and nothing is written through one; remove it")
        name = uuid.uuid4().hex
        with replacing(folder / f"{name}.json") as partial:
            partial.write_text(request.model_dump_json(), encoding="utf-8")
    return name


def waiting(run: Path) -> Iterator[tuple[str, Request | AutopeftError]]:
    """The requests in a run folder, the oldest first, by name; in the place of one that is none what is wrong."""
    for path in _files(run):
        try:
            yield path.stem, request_of(read_json(path, most=_MOST_BYTES), "request")
        except AutopeftError as error:
            yield path.stem, error


def drop(run: Path, name: str) -> None:
    """A request is seen to."""
    with door(run / FOLDER, "cannot be written"):
        (run / FOLDER / f"{name}.json").unlink(missing_ok=True)


def _files(run: Path) -> list[Path]:
    """None where the folder is a link: it would be somebody else's."""
    folder = run / FOLDER
    if folder.is_symlink() or not folder.is_dir():
        return []
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink()]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))[:_MOST]
    except OSError:
        # One has just gone.
        return []
