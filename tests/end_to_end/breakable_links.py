"""A link between two machines, for tests: a port that hands on what comes, until it is cut."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets
_TICK = 0.1  # seconds


class Link:
    """A port that hands on to another port of this machine.

    Attributes:
        port: what the other side connects to.
        state: "whole"; "cut": what is under way is reset, and so is whatever comes; "silent": nothing arrives any more,
            and nobody is told.
    """

    def __init__(self, to: str) -> None:
        self._to, self._listener = int(to), socket.create_server(("127.0.0.1", 0))
        self.port, self.state = str(self._listener.getsockname()[1]), "whole"
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cut it for ever and free the port."""
        self.state = "closed"
        self._thread.join()

    def _carry(self) -> None:
        with selectors.DefaultSelector() as ready, self._listener:
            ready.register(self._listener, selectors.EVENT_READ)
            while self.state != "closed":
                if self.state == "silent":
                    time.sleep(_TICK)
                    continue
                if self.state == "cut":
                    _reset(ready, [key.fileobj for key in ready.get_map().values() if key.data])
                for key, _ in ready.select(_TICK):
                    self._one(ready, key)
            _reset(ready, [key.fileobj for key in ready.get_map().values() if key.data])

    def _one(self, ready: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        """Accept a connection, or hand on what has come on one; `data` of a socket is the other end."""
        if key.fileobj is self._listener:
            here, _ = self._listener.accept()
            try:
                there = socket.create_connection(("127.0.0.1", 1 if self.state == "cut" else self._to))
            except OSError:
                _reset(ready, [here])
                return
            ready.register(here, selectors.EVENT_READ, there)
            ready.register(there, selectors.EVENT_READ, here)
        elif key.data.fileno() >= 0:
            data = b""
            with contextlib.suppress(OSError):
                data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]  # sockets alone are registered
                key.data.sendall(data)
            if not data:
                _close(ready, [key.fileobj, key.data])


def _reset(ready: selectors.BaseSelector, ends: list[object]) -> None:
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # type: ignore[attr-defined]
    _close(ready, ends)


def _close(ready: selectors.BaseSelector, ends: list[object]) -> None:
    for end in ends:
        with contextlib.suppress(KeyError, ValueError):
            ready.unregister(end)  # type: ignore[arg-type]
        end.close()  # type: ignore[attr-defined]
