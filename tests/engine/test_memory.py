"""Keeping freed memory: only where glibc is, and the pages do stay."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import resource, sys
from fedveil.engine import _memory
kept = _memory.keep_freed_pages() if sys.argv[1] == "keep" else True
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def once():
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
once()
before = faults()
for _ in range(4): once()
print(kept, faults() - before)
"""


def pages(mode: str) -> tuple[str, int]:
    found = subprocess.run([sys.executable, "-c", PROBE, mode], capture_output=True, text=True, check=True).stdout
    kept, faults = found.split()
    return kept, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_blocks_are_used_again_without_new_pages() -> None:
    kept, faults = pages("keep")
    if kept == "False":
        pytest.skip("this Linux has no glibc")
    usual = pages("default")[1]
    assert faults < usual / 10
