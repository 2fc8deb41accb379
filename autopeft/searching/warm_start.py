"""Another search's candidates and scores, as prior knowledge of this one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopeft.doors import door, read_json, within
from autopeft.errors import AutopeftError
from autopeft.hybrid import canonical_json
from autopeft.searching.evenly import evenly
from autopeft.searching.front import ParetoFront
from autopeft.searching.objective import Objective
from autopeft.searching.problem import Prior
from autopeft.searching.stored import Stored
from autopeft.space import SearchSpace

#: Members of the other front that are tried first; of a longer one, so many at equal distances.
FIRST = 8
_REMEDY = "restore a copy of it, or use a new folder"
#: Of a kept prior; ten thousand candidates of a hundred dimensions have 30 million.
_MOST_BYTES = 2**26


def prior_of(run: Path, space: SearchSpace) -> Prior:
    """What the search in a run folder found, for a search of the same space; its task and budget may be others.

    `AutopeftError` when the folder holds no study, one of another space, or no finished candidate.
    """
    with within("warm_start"):
        study = Stored.load(run)
    header = study.header()
    theirs, ours = map(_compared, (header["space"], space.to_json()))
    if canonical_json(theirs) != canonical_json(ours):
        part = next(k for k in ours if canonical_json(theirs.get(k)) != canonical_json(ours[k]))
        raise AutopeftError(
            f"warm_start: {run} is a search of another space (its {part} differ); use one of the same space and model"
        )
    objectives = [Objective(**objective) for objective in header["objectives"]]
    front = ParetoFront(study.evaluations(), objectives, header["budget"])
    if not front.done:
        raise AutopeftError(f"warm_start: {run} has no finished candidate to learn from")
    try:
        return prior_from(front, space)
    except AutopeftError as error:
        raise AutopeftError(f"warm_start: {run} is a search of another model's hybrids: {error}") from None


def prior_from(front: ParetoFront, space: SearchSpace) -> Prior:
    """The finished candidates of a search by their front; `AutopeftError` when none is of the space."""
    inside = [e for e in front.done if space.point_of(e.candidate) is not None]
    # Controls and cuts may lie outside of any space; where nothing is inside, it is another one's.
    known = inside or front.done
    return Prior(
        [space.encode(e.candidate) for e in known],
        [-front.score.loss(e.metrics[front.score.metric]) for e in known],
        [space.encode(e.candidate) for e in evenly([e for e in front.points if e in known], FIRST)],
    )


def kept_prior(file: Path, space: SearchSpace) -> Prior:
    """The prior that `prior_text` wrote: a search does not depend on the other run's folder after its start.

    `AutopeftError` when that is not what the file holds.
    """
    content = read_json(file, _REMEDY, _MOST_BYTES)
    with door(file, "not the candidates of a search of this space", _REMEDY):
        prior = Prior(content["points"], [float(score) for score in content["scores"]], content["front"])
        with within(file, _REMEDY):
            for point in (*prior.points, *prior.front):
                space.check(point)
        if len(prior.points) != len(prior.scores) or not all(map(math.isfinite, prior.scores)):
            raise ValueError("a point without its score")
    return prior


def prior_text(prior: Prior) -> str:
    """The prior as JSON."""
    content = {"points": prior.points, "scores": prior.scores, "front": prior.front}
    return json.dumps({key: list(values) for key, values in content.items()}, indent=1) + "\n"


def _compared(space: Mapping[str, Any]) -> dict[str, Any]:
    """What of a space must be the same; whether its ranges may be widened is each search's own."""
    training = {
        name: {k: v for k, v in values.items() if k != "widen"} if isinstance(values, Mapping) else values
        for name, values in dict(space.get("training") or {}).items()
    }
    return {**{k: v for k, v in space.items() if k != "description"}, "training": training}
