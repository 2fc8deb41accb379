"""What the search's processes take of their machine."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress

import psutil

from autopeft.errors import printable
from autopeft.watching.now import Machine

#: Seconds between two looks, and that the GPU's tool may take.
_PAUSE, _PATIENCE = 4.0, 5.0


class Meter:
    """Looks at the machine every few seconds, whoever asks how often."""

    def __init__(self) -> None:
        self._last, self._at = Machine(), -_PAUSE
        self._tool = shutil.which("nvidia-smi")

    def read(self) -> Machine:
        """As it was at the last look."""
        if time.monotonic() - self._at >= _PAUSE:
            # First, so that another thread that asks meanwhile has the last look.
            self._at = time.monotonic()
            self._last = self._look()
        return self._last

    def _look(self) -> Machine:
        memory = psutil.virtual_memory()
        return Machine(
            held=_held(),
            free=int(memory.available),
            total=int(memory.total),
            cpu=psutil.cpu_percent() / 100,
            devices=self._devices(),
        )

    def _devices(self) -> tuple[str, ...]:
        """By the driver's own tool: to ask through torch would take memory of each GPU."""
        if self._tool is None:
            return ()
        wanted = "--query-gpu=index,utilization.gpu,memory.used,memory.total"
        command = [self._tool, wanted, "--format=csv,noheader,nounits"]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            self._tool = None
            return ()
        rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines()[:64]]
        return tuple(
            printable(f"GPU {row[0]}: {row[1]}% busy, {row[2]} of {row[3]} MiB")[:200] for row in rows if len(row) == 4
        )


def _held() -> int:
    """Bytes of this process and its children; what they share is counted for each."""
    total, here = 0, psutil.Process()
    with suppress(psutil.Error):
        for process in (here, *here.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total
