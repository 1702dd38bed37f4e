"""Run ONE engine on one case in this process and print one line of JSON: `one.py ENGINE CASE FOLDER`.

The clock and the processor's time start when imports are done and pictures are read, and stop after the last round.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

BEGUN = time.time()
os.environ.setdefault("OMP_NUM_THREADS", "1")
import contextlib  # noqa: E402

with contextlib.suppress(OSError):  # the kernel shares the processor by session, and Ray's workers have their own
    os.setsid()

import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
import cases  # noqa: E402
import tree  # noqa: E402

from fedveil.commands import simulate  # noqa: E402
from fedveil.federation.federation import Federation  # noqa: E402
from fedveil_strategies import observers  # noqa: E402


def main() -> None:
    engine, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    case = cases.CASES[name]
    federation = Federation.of([*cases.words(case, folder), *engine_words(engine)])
    if engine != "loop":
        import fedveil_clients.app
        import fedveil_strategies.app  # noqa: F401
    federation.check()
    marks: list[tuple[float, float]] = []
    memory = tree.memory(os.getpid())

    def mark() -> None:
        marks.append((time.time(), tree.processor(os.getpid())))

    found = ""
    if engine == "loop":
        cases.loop(federation, mark)
    elif engine == "ray":
        import flower_app

        flower_app.run(case, name, folder, mark)
    else:
        found = simulated(federation, mark)
    rounds = [after[0] - before[0] for before, after in zip(marks, marks[1:], strict=False)]
    line = {
        "engine": engine, "case": name, "setup": marks[0][0] - BEGUN, "wall": marks[-1][0] - marks[0][0],
        "cpu": marks[-1][1] - marks[0][1], "rounds": rounds, "sha256": found, "imports": memory,
    }  # fmt: skip
    print("RESULT " + json.dumps(line), flush=True)


def engine_words(engine: str) -> list[str]:
    return {
        "inline": ["engine=inline"],
        "wire": ["engine=inline", "engine.wire=true"],
        "pool": ["engine=pool", "engine.workers=2"],
    }.get(engine, [])


def simulated(federation: Federation, mark) -> str:  # type: ignore[no-untyped-def]
    """Simulate in a folder of its own; return the model's hash."""
    track = observers.Watch.track

    def marked(self, report) -> None:  # type: ignore[no-untyped-def]
        track(self, report)
        mark()  # after evaluation and checkpoint

    observers.Watch.track = marked  # type: ignore[method-assign]
    observers.draw = lambda *_: []  # type: ignore[assignment]  # pictures are not what is measured
    here = Path.cwd()
    with tempfile.TemporaryDirectory(dir=sys.argv[3]) as place:
        os.chdir(place)
        mark()
        if os.environ.get("PROFILE"):
            import cProfile

            profile = cProfile.Profile(time.process_time)
            found = profile.runcall(simulate.simulate, federation, "run", "quiet")
            profile.dump_stats(os.environ["PROFILE"])
        else:
            found = simulate.simulate(federation, "run", "quiet")
        os.chdir(here)
    return str(found["model_sha256"])


if __name__ == "__main__":
    main()
