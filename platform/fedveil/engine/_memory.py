"""Large tensors reuse the memory of earlier ones instead of asking the operating system for fresh pages each time."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGEST = 2**31 - 1


def keep_freed_pages() -> bool:
    """Ask glibc to keep what is freed; return whether it does, False on other systems.

    By default every block above 32 MiB is mapped anew and given back when freed, so that each batch of frequency
    channels pays for its pages again. The price is that a process keeps its peak memory until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
