"""The machine during a search, as MLflow's own monitors see it: CPUs, memory, disk, network and GPUs."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Any

from autopeft.tracking import _mlflow_values as values
from autopeft.tracking._mlflow_calls import our_calls
from autopeft.tracking._mlflow_parent import Parent, now_ms

#: Where MLflow's pages look for them.
_PREFIX = "system/"
#: Samples that are kept while the store does not answer: some hours.
_MOST = 2000


class SystemMetrics:
    """Samples in a thread of its own, which talks to no store; whoever logs takes what has come together."""

    def __init__(self, parent: Parent, interval: float = 10.0) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        with our_calls(parent.place):
            self._monitor = SystemMetricsMonitor(parent.run_id, tracking_uri=parent.place.uri)
            self._step = self._monitor._get_next_logging_step(parent.run_id)
        self._interval, self._samples = interval, deque[Any](maxlen=_MOST)
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="system metrics", daemon=True).start()

    def take(self) -> list[Any]:
        """The samples since the last call, as MLflow's metrics."""
        return [self._samples.popleft() for _ in range(len(self._samples))]

    def give_back(self, samples: list[Any]) -> None:
        """Keep samples that could not be logged for the next call."""
        self._samples.extendleft(reversed(samples))

    def close(self) -> None:
        """Take no more samples."""
        self._ended.set()

    def _run(self) -> None:
        # A device that is lost is no reason to end a search.
        with suppress(Exception):
            # What is counted since the last look begins here.
            self._monitor.collect_metrics()
            while not self._ended.wait(self._interval):
                for monitor in self._monitor.monitors:
                    monitor.clear_metrics()
                self._monitor.collect_metrics()
                found = {f"{_PREFIX}{name}": value for name, value in self._monitor.aggregate_metrics().items()}
                self._samples.extend(values.metrics(found, now_ms(), self._step))
                self._step += 1
