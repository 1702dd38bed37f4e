"""MLflow's pages of a store: the command that serves them, the address that they open at, and when they are there."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import warnings

from fedveil import checks
from fedveil.storage import addresses
from fedveil.tracking import stores, view
from fedveil.tracking.stores import Store

_NAME = "fedveil.localhost"
"""This machine, by a name under which MLflow does not open its assistant: it does where the page's host is exactly
`localhost` or `127.0.0.1`. Browsers take every name that ends in .localhost for the machine itself (RFC 6761)."""
_OWN = ("127.0.0.1", "localhost")
_ALLOWED = "localhost,localhost:*,127.0.0.1,127.0.0.1:*,[::1],[[]::1]:*,0.0.0.0:*"
_HOSTS, _ORIGINS = "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"
_POLL, _PATIENCE = 0.1, 120.0  # seconds


def host_of(host: str) -> str:
    """Return the name under which a browser on this machine asks for pages that listen on `host`.

    >>> host_of("192.168.1.7")
    '192.168.1.7'
    """
    if host not in _OWN:
        return host
    if sys.platform != "darwin":
        return _NAME
    with contextlib.suppress(OSError):  # Safari asks the system, which may not know the name
        socket.getaddrinfo(_NAME, None)
        return _NAME
    return host


def environment(host: str, port: int) -> dict[str, str]:
    """Return what MLflow's server needs to answer to the name; what a person allowed stays allowed."""
    name = host_of(host)
    if name != _NAME:
        return {}
    hosts, origins = os.environ.get(_HOSTS) or _ALLOWED, os.environ.get(_ORIGINS)
    origin = f"http://{name}:{port}"
    return {_HOSTS: f"{hosts},{name}:{port}", _ORIGINS: f"{origins},{origin}" if origins else origin}


def renewed(store: Store, host: str, port: int) -> str:
    """Write the view and the description of a store's experiment anew, and return the address that shows it.

    Raises:
        UserError: the store cannot be read.
    """
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own deprecations are not the user's concern
        from fedveil.tracking import _mlflow

        try:
            found = _mlflow.renewed(store, store.experiment or stores.EXPERIMENT)
        except Exception as error:  # whatever a store does
            reason = (addresses.redacted(str(error)).strip().splitlines() or [type(error).__name__])[0]
            raise checks.UserError(f"{store.shown} cannot be read: {reason}") from error
    return view.address(host_of(host), port, found)


def check_free(host: str, port: int) -> None:
    """Refuse a port on which somebody answers: what opens there would be another's pages.

    Raises:
        UserError: naming the port, with another one.
    """
    if _answers(host, port):
        raise checks.UserError(f"--port {port} of {host} is taken; name another, for example --port {port + 1}.")


def _answers(host: str, port: int) -> bool:
    target = "127.0.0.1" if host in ("0.0.0.0", "") else host
    with contextlib.suppress(OSError), contextlib.closing(socket.create_connection((target, port), 1.0)):
        return True
    return False


def wait(process: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Return whether the pages are there: not when their server ended before, or takes too long."""
    until = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if _answers(host, port):
            return True
        time.sleep(_POLL)
    return False
