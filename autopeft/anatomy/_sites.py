"""Where a map's own rows are, where several maps are fused in one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Layout = Literal["equal", "blocks", "groups"]
_QKV = ("q", "k", "v")


@dataclass(frozen=True)
class Rows:
    """`count` runs of `run` rows each, the first at `start` and each `stride` after the one before.

    The rows of all maps that are fused in one have the same `count` and `stride`, and lie between each other.
    """

    start: int
    run: int
    stride: int
    count: int = 1

    @property
    def size(self) -> int:
        """How many rows there are."""
        return self.run * self.count

    @property
    def total(self) -> int:
        """How many rows all fused maps have together."""
        return self.stride * self.count

    @property
    def whole(self) -> bool:
        """Whether they are all rows there are."""
        return self.run == self.stride

    def of(self, fused: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """The rows of a tensor of `total` along `dim`: a view where they lie side by side, else a copy."""
        if self.whole:
            return fused
        if self.count == 1:
            return fused.narrow(dim, self.start, self.run)
        dim %= fused.dim()
        return (
            fused.unflatten(dim, (self.count, self.stride)).narrow(dim + 1, self.start, self.run).flatten(dim, dim + 1)
        )

    def index(self, device: torch.device | None = None) -> torch.Tensor:
        """The numbers of the rows."""
        import torch

        return self.of(torch.arange(self.total, device=device))

    def spread(self, own: torch.Tensor) -> torch.Tensor:
        """A tensor of `total` rows along the first axis, zero but for the rows' `own`."""
        whole = own.new_zeros(self.total, *own.shape[1:])
        whole[self.index(own.device)] = own
        return whole


def joined(fused: torch.Tensor, parts: Iterable[tuple[Rows, torch.Tensor]]) -> torch.Tensor:
    """`fused` [..., total] with the parts in the place of its rows; the parts are of different rows."""
    import torch

    ordered = sorted(parts, key=lambda part: part[0].start)
    first = ordered[0][0]
    if first.whole:
        return ordered[0][1]
    runs, pieces, end = fused.unflatten(-1, (first.count, first.stride)), list[torch.Tensor](), 0
    for rows, part in ordered:
        if rows.start > end:
            pieces.append(runs[..., end : rows.start])
        pieces.append(part.unflatten(-1, (rows.count, rows.run)))
        end = rows.start + rows.run
    if end < first.stride:
        pieces.append(runs[..., end:])
    return torch.cat(pieces, dim=-1).flatten(-2)


@dataclass(frozen=True)
class Site:
    """Where a place is: the output of `module`, or part `index` of the `parts` maps that are fused in it.

    Their rows are "equal" parts of it; or q, k and v have as many rows as heads: in "blocks", all of q, then of k, then
    of v; or in "groups" of heads, each with its queries, its key and its value.
    """

    module: str
    index: int = 0
    parts: int = 1
    layout: Layout = "equal"

    @classmethod
    def read(cls, written: str) -> Site:
        """Of `module`, `module:i/n`, or `module:q/blocks` (k, v; groups)."""
        module, _, part = written.partition(":")
        index, _, of = part.partition("/")
        if not part:
            return cls(module)
        if index in _QKV:
            return cls(module, _QKV.index(index), 3, "blocks" if of == "blocks" else "groups")
        return cls(module, int(index), int(of))

    def rows(self, total: int, heads: int, kv_heads: int) -> Rows:
        """The rows of a fused map of `total` outputs."""
        if self.layout == "equal":
            run = total // self.parts
            return Rows(self.index * run, run, total)
        count = kv_heads if self.layout == "groups" else 1
        width = total // (heads + 2 * kv_heads)
        runs = [number * width // count for number in (heads, kv_heads, kv_heads)]
        return Rows(sum(runs[: self.index]), runs[self.index], sum(runs), count)
