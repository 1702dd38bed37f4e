"""One cell of a sweep in a process of its own: `python -m fedveil.commands.sweep.worker`, the job a JSON line on stdin.

Standard input stays open for as long as the sweep lives: when it ends, however hard the sweep was killed, so does the
worker, at once. The run's checkpoint is atomic, so nothing is lost but the round in progress.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(3)


def main() -> int:
    """Run the job; the last line of standard output says why it failed, if it did."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    line = bytearray()
    while not line.endswith(b"\n"):
        if not (sign := os.read(0, 1)):
            return 3
        line += sign
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(line)
    try:
        from fedveil import config
        from fedveil.commands import simulate
        from fedveil.federation.federation import Federation

        federation = Federation(config.from_json(job["config"]))
        simulate.simulate(federation, job["run_id"], "plain", job["parent"])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    except Exception as error:  # whatever it is, it is this run's failure and the others go on
        traceback.print_exc()
        sys.stderr.flush()
        reason = " ".join(str(error).split())
        print(reason if type(error).__name__ == "UserError" else f"{type(error).__name__}: {reason}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
