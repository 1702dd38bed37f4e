"""Make labelled faces of nobody: learn public people, draw, judge.

What a generator learnt can show in its faces: a set whose source has strangers is searched for whom it was trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fedveil import checks, console, runs
from fedveil.commands._steps import Steps
from fedveil.commands.synthesize import chosen as words_of
from fedveil.commands.synthesize import report
from fedveil.federation.federation import Federation
from fedveil.runs import Run
from fedveil.synthesis import making
from fedveil.tracking import synthesized

EXAMPLES = """examples:
  fedveil synthesize synthesis=quick               # drawn faces, minutes
  fedveil synthesize data=lfw data.root=lfw        # 32 pixels, an hour
  fedveil synthesize synthesis.generator=RUN_ID    # of a federated generator
  fedveil synthesize synthesis=gpu device=cuda data=lfw data.root=lfw
  fedveil synthesize --resume 20260102-030405-id3-1f2e3d
  Then: fedveil simulate data=synthetic data.path=faces.npz protection=none
"""

TRACKS = True
STORE = "synthetic"
"""The folder of the run store that synthetic sets are in."""
_ASKED = "asked.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "words", nargs="*", default=[], metavar="WORD", help="synthesis=TIER synthesis.identities=100 data=lfw ..."
    )
    parser.add_argument("--resume", metavar="ID", help="go on with an interrupted set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what is known of the set here, as JSON")
    parser.add_argument("--plain", action="store_true", help="no progress bar")


def run(chosen: argparse.Namespace) -> int:
    """Make the set, print what it is worth, and track it."""
    settings, wanted = words_of.of(chosen.words)
    root = Path(settings.runs.root) / STORE
    if chosen.resume is not None:
        own = ("runs", "tracking", "device")
        rest = [word for word in chosen.words if word.partition("=")[0].partition(".")[0] not in own]
        if rest:
            raise checks.UserError(f"--resume {chosen.resume} goes on with its own settings; leave out {rest[0]}.")
        made = runs.open_run(root, chosen.resume)
        settings, wanted = report.asked(made, settings, _ASKED)
    else:
        made = Run(root, runs.new_run_id("id3"))
    federation = Federation(settings)
    _ = federation.place, federation.split  # what cannot be had leaves no folder behind
    lock = runs.lock(made)
    before = [*made.folder.iterdir()]
    try:
        if not made.config.exists():
            report.write(made, settings, wanted, _ASKED)
        console.tell(f"set {made.run_id} in {root}/")
        with Steps(chosen.plain, lines=True) as steps:
            result = making.make(federation, wanted, made.folder, steps.show, steps.say)
    except KeyboardInterrupt:
        console.complain(f"\ninterrupted; `fedveil synthesize --resume {made.run_id}` goes on where it was")
        return 130
    except (checks.UserError, OSError):
        if not any((made.folder / name).exists() for name in ("recogniser.npz", "faces")):  # nothing to go on from
            runs.take_back(made, before)
        raise
    finally:
        lock.close()
    synthesized.tell(settings, made, result)
    if chosen.json is not None:
        runs.write_json(chosen.json, result)
    console.tell(report.text(made, result))
    return 0
