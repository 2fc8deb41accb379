"""What the machines of a Ray cluster must share with the one that searches."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.errors import AutopeftError
from autopeft.plugins import plugin_folders

if TYPE_CHECKING:
    from autopeft.engine.worker import WorkerSpec

#: Seconds that a machine may take to start a process that imports autopeft.
_SECONDS = 120.0


def check_resources(cpus: float, gpus: float) -> None:
    """`AutopeftError` when a worker fits on no machine; call it on Ray, which would wait for ever, without a word."""
    import ray

    asked = {"CPU": cpus, "GPU": gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(kind, 0) >= n for kind, n in asked.items()) for node in nodes):
        most = ", ".join(f"{max((n.get(kind, 0) for n in nodes), default=0):g} {kind}s" for kind in asked)
        raise AutopeftError(
            f"runner: no machine has {cpus:g} CPUs and {gpus:g} GPUs for a worker (at most: {most}); mend "
            "runner.cpus_per_worker and runner.gpus_per_worker"
        )


def check_nodes(spec: WorkerSpec) -> None:
    """`AutopeftError` when a machine of the cluster does not see a folder that it needs; call it on Ray.

    Workers write trained weights into the run folder, where the searching machine reads them.
    """
    if spec.keep is None:
        return
    spec.keep.mkdir(parents=True, exist_ok=True)
    mark, model = spec.keep / f".{secrets.token_hex(8)}", Path(spec.source.location)
    mark.touch()
    try:
        paths = {str(mark): f"run folder {spec.keep.parent}"} | {path: f"plug-ins {path}" for path in plugin_folders()}
        _check(paths | ({str(model): f"model {model}"} if model.exists() else {}))
    finally:
        mark.unlink(missing_ok=True)


def missing(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the machine that it runs on, and which of the paths are not there."""
    return socket.gethostname(), [path for path in paths if not Path(path).exists()]


def _check(paths: Mapping[str, str]) -> None:
    """`paths` with what they stand for."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(missing)
    asked: dict[Any, str] = {}
    for node in ray.nodes():
        if node["Alive"]:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[look.options(scheduling_strategy=place).remote(list(paths))] = node["NodeManagerAddress"]
    for reference, address in asked.items():
        try:
            name, absent = ray.get(reference, timeout=_SECONDS)
        except ray.exceptions.GetTimeoutError:
            raise AutopeftError(f"runner: the cluster's machine {address} does not start a worker") from None
        except ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[-1][:200]
            raise AutopeftError(f"runner: no worker can run on the cluster's machine {address} ({why})") from None
        for path in absent:
            raise AutopeftError(
                f"runner: the cluster's machine {name} ({address}) does not see the {paths[path]}; put it on a file "
                "system that all machines share, under one path"
            )
