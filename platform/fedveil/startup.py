"""Starting quickly: importing makes a million objects that all stay, and nothing for the collector to find."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let Python's collector rest in the block, and leave out later what the block has made.

    Looking through it again and again takes a sixth of what importing torch takes, and a quarter for MLflow. Objects
    that are left out are shared with forked processes for as long as nobody writes to them.
    """
    collected, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()
        if len(sys.modules) > before:
            gc.freeze()
