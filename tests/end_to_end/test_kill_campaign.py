"""Processes of a run are killed at random moments, again and again; what it ends with is what it would have been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = (
    "evaluation.reference=false", "data.identities=12", "data.images_per_identity=4", "data.evaluation_identities=6",
    "data.evaluation_images=3", "data.pairs=20", "data.public_identities=4", "data.public_images=4",
    "model.width=8", "model.embedding=16", "train.clients=6", "train.rounds=40", "train.local.steps=2",
    "train.batch_size=6", "evaluation.draws=1", "evaluation.bootstrap=0", "evaluation.every=100", "tracking=none",
    "train.cohort.rate=0.7", "engine.workers=2", "privacy.test_seed=3",
)  # fmt: skip
KINDS = {
    "none": ("protection=none",),
    "dctdp": ("protection=dctdp", "protection.fit_steps=0", "protection.init=zeros"),
    "client level": (
        "protection=none", "privacy.client.epsilon=8", "privacy.client.delta=1e-5", "privacy.client.clip=1",
    ),
}
COMMAND = [sys.executable, "-m", "fedveil.cli", "simulate", "--plain"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc"),
]


def run_of(folder: Path) -> Path:
    (found,) = folder.glob("runs/*/config.json")
    return found.parent


def whole(folder: Path, words: tuple[str, ...]) -> str:
    folder.mkdir()
    subprocess.run([*COMMAND, *words], cwd=folder, check=True, capture_output=True)
    return str(json.loads((run_of(folder) / "result.json").read_text())["model_sha256"])


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(
    tmp_path: Path, kind: str, children: Callable[[int], set[int]], alive: Callable[[int], bool]
) -> None:
    words = (*WORDS, *KINDS[kind])
    expected = whole(tmp_path / "whole", words)
    folder, chance = tmp_path / "killed", random.Random(f"kill {kind}")
    folder.mkdir()
    shared = set(os.listdir("/dev/shm"))
    arguments, parents, workers = [*words], 0, 0
    for attempt in range(40):
        process = subprocess.Popen([*COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        pids: set[int] = set()
        end = time.monotonic() + (chance.uniform(2.0, 9.0) if attempt < 6 else 600.0)
        while process.poll() is None and time.monotonic() < end:
            pids |= (own := children(process.pid))
            if own and chance.random() < 0.02 and workers < 30:
                os.kill(chance.choice(sorted(own)), signal.SIGKILL)  # a worker's death is nobody's fault, once
                workers += 1
                time.sleep(0.5)  # the same client twice would be a failure
            time.sleep(0.02)
        parents += process.poll() is None
        process.kill()
        said = process.communicate()[1].decode()
        gone = time.monotonic() + 10
        while any(map(alive, pids)) and time.monotonic() < gone:
            time.sleep(0.01)
        assert not any(map(alive, pids))
        assert process.returncode in (0, -signal.SIGKILL), said
        if process.returncode == 0:
            break
        if list(folder.glob("runs/*/config.json")):
            arguments = ["--resume", run_of(folder).name]
    assert json.loads((run_of(folder) / "result.json").read_text())["model_sha256"] == expected
    assert parents >= 2
    assert workers >= 1
    assert not {name for name in set(os.listdir("/dev/shm")) - shared if "fedveil" in name}
    log = run_of(folder) / "operator.log"
    assert not log.exists() or "worker process ended" not in log.read_text()
