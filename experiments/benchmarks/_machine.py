"""What a benchmark ran on, and how much memory its processes took."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("torch", "transformers", "peft", "optuna", "ray", "mlflow", "numpy")
#: Instructions that decide how fast matrices are multiplied.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def machine() -> dict[str, Any]:
    """Processor, memory, accelerator, versions, threads, commit and date."""
    import torch

    cuda = torch.cuda.is_available()
    cpu = _fields(Path("/proc/cpuinfo"))
    flags = cpu.get("flags", "").split()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": cpu.get("model name", platform.processor()),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "ram_gib": round(_kib(_fields(Path("/proc/meminfo")).get("MemTotal", "0 kB")) / 2**20, 1),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "gpu_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if cuda else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
    }


def tree_pss(pid: int) -> int:
    """Bytes that a process and its descendants take together: shared pages are counted once (Linux)."""
    return sum(_pss(p) for p in _tree(pid))


class PeakMemory:
    """The largest `tree_pss` while the block runs, looked at every `interval` seconds.

    Reading it walks the page tables, which takes the watched processes' time: don't take times in the same run.
    """

    def __init__(self, pid: int | None = None, interval: float = 0.25) -> None:
        self._pid, self._interval = pid or os.getpid(), interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = 0

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.look()
        self._over.set()
        self._thread.join()

    def look(self) -> None:
        self.bytes = max(self.bytes, tree_pss(self._pid))

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self.look()


def _tree(pid: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold anything, spaces and parentheses too.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    todo = [pid]
    while todo:
        yield (now := todo.pop())
        todo += children.get(now, [])


def _pss(pid: int) -> int:
    # A process may end between two looks, and the kernel's own have no memory.
    return _kib(_fields(Path(f"/proc/{pid}/smaps_rollup")).get("Pss", "0 kB")) * 1024


def _fields(path: Path) -> dict[str, str]:
    """The first `name: value` of every name; nothing where there is no such file."""
    found: dict[str, str] = {}
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    except OSError:
        return {}
    return found


def _kib(text: str) -> int:
    return int(text.split()[0])


def _commit() -> str:
    git = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return git.stdout.strip() or "unknown"
