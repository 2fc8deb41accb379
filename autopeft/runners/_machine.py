"""What this machine has for workers, and what is too much to ask of it."""

from __future__ import annotations

import math
import os
from pathlib import Path

from autopeft.errors import AutopeftError
from autopeft.wording import counted

#: More workers than CPUs slow each other down, but end: two on one core are common. Beyond this many they only swap.
_LEAST, _TIMES = 8, 4


def cpus() -> int:
    """CPUs that this process may use: its affinity and the quota of its control group, not the machine's sockets."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(own, _quota())))


def most_workers() -> int:
    """Workers of one CPU that this machine may be asked for."""
    return max(_LEAST, _TIMES * cpus())


def check_cpus(asked: float, where: str) -> None:
    """`AutopeftError` for a worker with more CPUs than there are: it would start as many threads."""
    if asked > cpus():
        raise AutopeftError(f"{where}: {asked:g} are asked for, and this machine has {counted(cpus(), 'CPU')}")


def check_workers(workers: int, each: float, where: str) -> None:
    """`AutopeftError` for more workers than the machine could ever run beside each other."""
    check_cpus(each, f"{where}.cpus_per_worker")
    if workers > 1 and workers * each > most_workers():
        raise AutopeftError(
            f"{where}.workers: {workers:,} with {counted(each, 'CPU')} each are asked for, and this machine has "
            f"{counted(cpus(), 'CPU')} (at most {max(1, int(most_workers() / each))} workers)"
        )


def check_gpus(asked: float, workers: int, where: str) -> None:
    """`AutopeftError` for more GPUs than there are."""
    if not asked:
        return
    import torch

    there = torch.cuda.device_count()
    if asked > there:
        raise AutopeftError(f"{where}.gpus_per_worker: {asked:g} are asked for, and this machine has {there} GPUs")
    # A GPU's parts are whole: three workers of 0.4 need two GPUs.
    most = math.floor(there / asked) if asked >= 1 else there * math.floor(1 / asked + 1e-9)
    if workers > most:
        raise AutopeftError(
            f"{where}.workers: {workers:,} with {asked:g} GPUs each are asked for, and this machine has {there} GPUs "
            f"(at most {most} workers)"
        )


def _quota() -> float:
    """CPUs by the control group's quota (version 2, then 1); infinity without one."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        group = Path("/sys/fs/cgroup/cpu")
        quota_us = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        return quota_us / int((group / "cpu.cfs_period_us").read_text(encoding="ascii")) if quota_us > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
