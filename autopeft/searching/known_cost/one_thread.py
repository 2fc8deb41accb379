"""One thread for small products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Within: NumPy, SciPy and torch use one thread.

    On products of some hundred rows threads cost more than they bring (on two cores a proposal took three times as
    long), and sums depend on their number, which a resumed search may have changed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _controller().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)


@cache
def _controller() -> ThreadpoolController:
    # Looks through all libraries of the process: once.
    return ThreadpoolController()
