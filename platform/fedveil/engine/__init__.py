"""Engines: Flower Grids that run the two apps, loaded by name, in this machine's processes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from fedveil import checks, device, startup
from fedveil.configuration.schema import Engine

SERVER_APP = "fedveil_strategies.app:app"
CLIENT_APP = "fedveil_clients.app:app"


def load(name: str) -> Any:
    """Return the object `package.module:attribute`, as Flower loads apps."""
    module, _, attribute = name.partition(":")
    with startup.importing():
        return getattr(importlib.import_module(module), attribute)


def run(engine: Engine, clients: int, run_config: Mapping[str, Any], node_config: Mapping[str, Any]) -> None:
    """Run the ServerApp against `clients` simulated nodes on the configured engine, until it returns.

    Whatever happens, Ctrl-C included, no worker process is left.
    """
    with startup.importing():
        from fedveil.engine import _flower, _memory
        from fedveil.engine.gpus import GpuGrid
        from fedveil.engine.inline import InlineGrid
        from fedveil.engine.pool import PoolGrid

    kinds = {"inline": InlineGrid, "pool": PoolGrid}
    checks.one_of(kinds, engine=engine.name)
    kind = kinds[engine.name]
    if kind is PoolGrid and sys.platform != "linux":
        kind = InlineGrid  # forking is safe on Linux alone; results are equal
    devices = device.shared(str(node_config.get("device", "cpu"))) if kind is PoolGrid else []
    if devices != ["cpu"]:
        kind = InlineGrid  # one process keeps one model on a device; another would only queue for it
    workers = engine.workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    _memory.keep_freed_pages()  # workers that are forked later inherit it
    settings = _flower.Settings(clients, run_config, node_config, workers, engine.wire)
    if len(devices) > 1:
        grid: _flower.LocalGrid = GpuGrid(CLIENT_APP, settings, devices[: engine.workers])
    else:
        grid = kind(load(CLIENT_APP), settings)
    try:
        load(SERVER_APP)(grid, _flower.server_context(settings))
    finally:
        grid.close()
