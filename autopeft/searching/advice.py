"""What a finished search says of its own space: which bounds its front sits at, and which it does not need."""

from __future__ import annotations

from collections.abc import Iterator

from autopeft.budget import costs_of
from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.searching.front import ParetoFront
from autopeft.searching.range_ends import at_ends
from autopeft.space import SearchSpace

#: Members of the front, and candidates, that have had a block: fewer say nothing of it.
_MEMBERS, _TRIED = 2, 5
#: From which share of a limit on it binds, and up to which it does not matter.
_BINDS, _IDLE = 0.9, 0.5
#: Tokens of a sequence, for limits on FLOPs: here only their order counts.
_LENGTH = 128


def advice(front: ParetoFront, space: SearchSpace) -> tuple[str, ...]:
    """Sentences, without a full stop, that say what to change in a next search; the most useful first.

    They are of the front's members, so few of these say little, and none nothing.
    """
    if not front.points:
        return ()
    return (*_ranges(front, space), *_sizes(front, space), *_limits(front, space), *_unused(front, space))


def _ranges(front: ParetoFront, space: SearchSpace) -> Iterator[str]:
    """Training hyper-parameters that most of the front has at an end of their range."""
    for found in at_ends(front, space.ranges):
        yield (
            f"{found.count} of the front's {found.members} members have {found.name} at the end of its range "
            f"({found.end:g}): there may be better ones beyond; give training.{found.name} a wider one"
        )


def _sizes(front: ParetoFront, space: SearchSpace) -> Iterator[str]:
    """Blocks that most members which have them have at the end of their list of sizes, in most of their layers."""
    known = [_block_sizes(space, e) for e in front.points]
    ends: dict[str, list[str]] = {"largest": [], "smallest": []}
    for block in space.methods:
        listed = list(dict.fromkeys(int(v) for d in space.structure if d.block == block for v in d.values if v))
        members = [sizes for layers in known if (sizes := [layer[block] for layer in layers if layer[block]])]
        if len(listed) < 2 or len(members) < _MEMBERS:
            continue
        # A control may be larger than all that the space has.
        for word, end, there in (
            ("largest", max(listed), [sum(v >= max(listed) for v in sizes) for sizes in members]),
            ("smallest", min(listed), [sum(v <= min(listed) for v in sizes) for sizes in members]),
        ):
            at = sum(2 * count > len(sizes) for count, sizes in zip(there, members, strict=True))
            if 2 * at > len(members) and not (word == "smallest" and end <= 1):
                ends[word].append(f"{block} ({end}, {at} of the {len(members)} that have it)")
    best = _block_sizes(space, front.best())
    if alone := [b for b in space.methods if _is_large(space, best, b) and not _named(b, ends["largest"])]:
        yield (
            f"the best candidate has the largest size that the space lists of {', '.join(alone)}: larger ones may be "
            "better; add them to the space"
        )
    for word, blocks in ends.items():
        if blocks:
            other = {"largest": "larger", "smallest": "smaller"}[word]
            yield (
                f"most members of the front have the {word} size that the space lists of {', '.join(blocks)}: {other} "
                "ones may be better; add them to the space"
            )


def _is_large(space: SearchSpace, layers: tuple[dict[str, int], ...], block: str) -> bool:
    """Whether a block has the largest of several sizes, or a larger one, in most of the layers that have it."""
    listed = {int(v) for d in space.structure if d.block == block for v in d.values if v}
    sizes = [layer[block] for layer in layers if layer[block]]
    return len(listed) > 1 and bool(sizes) and 2 * sum(v >= max(listed) for v in sizes) > len(sizes)


def _named(block: str, said: list[str]) -> bool:
    return any(each.startswith(f"{block} (") for each in said)


def _block_sizes(space: SearchSpace, evaluation: Evaluation) -> tuple[dict[str, int], ...]:
    try:
        return space.block_sizes(evaluation.candidate.hybrid)
    except (AutopeftError, ValueError):
        # A control for another number of layers is no part of the space.
        return ()


def _limits(front: ParetoFront, space: SearchSpace) -> Iterator[str]:
    """Limits that the best candidate has used up, or hardly uses, where the space has what is larger."""
    best, most = front.best(), costs_of(space.largest, space.shape, _LENGTH, front.limits)
    for name, limit in front.limits.items():
        share = best.metrics.get(name, 0) / limit if limit else 0.0
        takes = f"the best candidate takes {100 * share:.2g}% of the limit on {name} ({limit:,})"
        if share >= _BINDS:
            yield (f"{takes}: more of it may give more; raise budget.{name}")
        elif 0 < share <= _IDLE and most[name] > _IDLE * limit:
            yield (f"{takes}: what is larger gained nothing; a lower budget.{name} searches the rest more densely")


def _unused(front: ParetoFront, space: SearchSpace) -> Iterator[str]:
    """Blocks that several candidates had and no member of the front has."""
    on = [layer for e in front.points for layer in _block_sizes(space, e)]
    tried = {
        block: sum(any(layer[block] for layer in _block_sizes(space, e)) for e in front.done) for block in space.methods
    }
    idle = [
        f"{block} ({count} candidates had it)"
        for block, count in tried.items()
        if count >= _TRIED and not any(layer[block] for layer in on)
    ]
    if idle:
        yield f"no member of the front has {', '.join(idle)}: the space may do without"
