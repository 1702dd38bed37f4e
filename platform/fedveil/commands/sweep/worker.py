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
from collections.abc import Mapping

from fedveil.commands.sweep.process import NO_LOG


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
    try:
        return _run(json.loads(line))
    except OSError:  # not even the log can be written
        os._exit(NO_LOG)


def _run(job: Mapping[str, str]) -> int:
    from fedveil import checks, config
    from fedveil.commands import simulate
    from fedveil.federation.federation import Federation
    from fedveil.storage import addresses, disk

    try:
        federation = Federation(config.from_json(job["config"]))
        federation.check_clients()
        simulate.simulate(federation, job["run_id"], "plain", job["parent"])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    except (checks.UserError, OSError) as error:
        said = disk.said(error) if isinstance(error, OSError) else str(error)
        print(" ".join(addresses.redacted(said).split()), flush=True)
        return 1
    except Exception as error:  # whatever it is, it is this run's failure and the others go on
        print(addresses.redacted(traceback.format_exc()), file=sys.stderr, flush=True)
        print(" ".join(addresses.redacted(f"{type(error).__name__}: {error}").split()), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
