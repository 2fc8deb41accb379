"""What a hybrid amounts to in a few numbers that any two candidates have: plots that compare runs need them."""

from __future__ import annotations

from collections.abc import Iterable

from autopeft.candidate import Evaluation
from autopeft.tracking._base import Sizes


def sizes_over(methods: Iterable[str]) -> Sizes:
    """For candidates of a search in a space with these methods: one that a candidate lacks has size 0."""
    known = tuple(dict.fromkeys(methods))
    return lambda evaluation: _sizes(evaluation, known)


def _sizes(evaluation: Evaluation, known: Iterable[str]) -> dict[str, int | float]:
    """`layers`: how many have a method; `size.<method>`: its sizes in all layers together."""
    hybrid, sizes = evaluation.candidate.hybrid, dict.fromkeys(known, 0)
    for method in hybrid.methods():
        sizes[method.name] = sizes.get(method.name, 0) + method.size_value
    adapted = sum(bool(methods) for methods in hybrid.layers)
    return {"layers": adapted, **{f"size.{name}": size for name, size in sizes.items()}}
