"""Run ONE engine on one case in this process and print one line of JSON: `one.py ENGINE CASE FOLDER`.

The clock and the processor's time start when imports are done and pictures are read, and stop after the last round, its
checkpoint included. What is evaluated is left out: the bare loop evaluates nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGUN = time.time()
os.environ.setdefault("OMP_NUM_THREADS", "1")
with contextlib.suppress(OSError):  # the kernel shares the processor by session, and Ray's workers have their own
    os.setsid()

import cases  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import tree  # noqa: E402

from fedveil import engine as engines  # noqa: E402
from fedveil.commands import simulate  # noqa: E402
from fedveil.federation import training  # noqa: E402
from fedveil.federation.federation import Federation  # noqa: E402
from fedveil_strategies import observers  # noqa: E402

ENGINES = {
    "loop": (),
    "ray": (),
    "inline": ("engine=inline",),
    "wire": ("engine=inline", "engine.wire=true"),
    "pool": ("engine=pool", "engine.workers=2"),
}


class Stopwatch:
    """Wall and processor seconds of this process's tree at the beginning and after every round."""

    def __init__(self, rounds: int) -> None:
        self._rounds, self._left_out = rounds, [0.0, 0.0]
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        ends = len(self.marks) in (0, self._rounds)  # asking for a tree's time takes some
        used = tree.processor(os.getpid()) if ends else 0.0
        self.marks.append((time.time() - self._left_out[0], used - self._left_out[1]))

    def leaving_out(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call`, whose time does not count."""

        def timed(*given: Any, **words: Any) -> Any:
            wall, used = time.time(), time.process_time()
            try:
                return call(*given, **words)
            finally:
                self._left_out[0] += time.time() - wall
                self._left_out[1] += time.process_time() - used

        return timed


class Inside:
    """Processor seconds inside the local steps, of this process and of those forked later: what no engine can save."""

    def __init__(self) -> None:
        self._cells = np.frombuffer(mmap.mmap(-1, 8 * 4096), np.float64)
        steps = training.local_sgd

        def timed(*given: Any, **words: Any) -> float:
            begun = time.thread_time()
            loss = steps(*given, **words)
            self._cells[os.getpid() % 4096] += time.thread_time() - begun
            return loss

        training.local_sgd = timed

    def seconds(self) -> float:
        return float(self._cells.sum())


def main() -> None:
    engine, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]).resolve()
    torch.set_num_threads(1)
    case = cases.CASES[name]
    federation = cases.federation_of(case, folder, ENGINES[engine])
    if engine not in ("loop", "ray"):
        engines.load(engines.CLIENT_APP), engines.load(engines.SERVER_APP)
    federation.check()
    inside, watch = Inside(), Stopwatch(case.rounds)
    imports, digest = tree.memory(os.getpid()), ""
    if engine == "loop":
        cases.loop(federation, watch.mark)
    elif engine == "ray":
        import flower_app

        flower_app.run(case, name, folder, watch.mark)
    else:
        digest = simulated(federation, folder, watch)
    line = {
        "engine": engine, "case": name, "setup": watch.marks[0][0] - BEGUN,
        "wall": watch.marks[-1][0] - watch.marks[0][0], "cpu": watch.marks[-1][1] - watch.marks[0][1],
        "rounds": [after[0] - before[0] for before, after in itertools.pairwise(watch.marks)],
        "inside": inside.seconds(), "imports_mb": imports, "sha256": digest,
    }  # fmt: skip
    print("RESULT " + json.dumps(line), flush=True)


def simulated(federation: Federation, folder: Path, watch: Stopwatch) -> str:
    """Simulate in a folder that is thrown away; return the model's hash."""
    track = observers.Watch.track

    def marked(self: observers.Watch, report: Any) -> None:
        track(self, report)
        watch.mark()

    observers.Watch.track = marked  # type: ignore[method-assign]
    observers.evaluated = watch.leaving_out(observers.evaluated)
    observers.draw = lambda *_: []  # pictures are not what is measured
    with tempfile.TemporaryDirectory(dir=folder) as place, contextlib.chdir(place):
        watch.mark()
        return str(simulate.simulate(federation, "run", "quiet")["model_sha256"])


if __name__ == "__main__":
    main()
