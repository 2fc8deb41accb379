"""Where Ray's workers import from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.job_config import JobConfig


class _Closed(list[str]):
    """A list that takes nothing in."""

    def extend(self, more: Iterable[str]) -> None:
        """Nothing."""


def safe_job() -> JobConfig:
    """Workers import from where they are installed, and nowhere else.

    Ray puts the driver's current folder before everything on their path: a `numpy.py` that lies beside somebody's
    experiment would be theirs.
    """
    from ray.job_config import JobConfig

    job = JobConfig()
    job._py_driver_sys_path = _Closed()
    return job
