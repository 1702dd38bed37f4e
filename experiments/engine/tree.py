"""What a tree of processes uses, from Linux's /proc: processor time and proportional memory."""

from __future__ import annotations

import os
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def _stats() -> dict[int, tuple[int, int, str]]:
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(place.name)] = int(fields[1]), sum(map(int, fields[11:15])), fields[0]
    return found


def below(root: int) -> set[int]:
    """Return the ids of a process and everything below it."""
    stats = _stats()
    kept, grown = {root}, True
    while grown:
        more = {pid for pid, (parent, _, _) in stats.items() if parent in kept} - kept
        kept |= more
        grown = bool(more)
    return kept


def processor(root: int) -> float:
    """Return the processor seconds of a tree so far: those that run, and the ended children that were waited for."""
    stats = _stats()
    return sum(stats[pid][1] for pid in below(root) if pid in stats) / TICK


def memory(root: int) -> float:
    """Return the proportional set size of a tree, MiB: a page that n processes share counts 1/n in each."""
    total = 0
    for pid in below(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def busy() -> float:
    """Return the processor seconds that the whole machine has used."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK
