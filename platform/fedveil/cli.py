"""The command line. Every command takes `group=name` and `section.key=value` words; see configs/base.yaml."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import fedveil
from fedveil import checks, config, runs

_FORMS = """
words:
  protection=dctdp              choose a method of a group: {groups}
  train.rounds=30               override one setting (see docs/configuration.md)
  study=quick                   start from configs/study/quick.yaml
"""

_EXAMPLES = {
    "simulate": """examples:
  fedveil simulate                                   ten clients, procedural faces, DCTDP, about a minute
  fedveil simulate protection=none train.rounds=10   without protection
  fedveil simulate protection.total_epsilon=8        a meaningful image-level budget
  fedveil simulate data=folder data.root=~/faces data.evaluation=procedural
  fedveil simulate --resume 20260102-030405-dctdp-1f2e3d
""",
    "sweep": """examples:
  fedveil sweep protection=none,dctdp seed=1,2,3                   six runs, as many at once as there are cores
  fedveil sweep protection.total_epsilon=8,50,200 seed=1,2 train.rounds=12
  fedveil sweep privacy.client.epsilon=1,2,4,8,inf protection=none,dctdp seed=1,2,3
  fedveil sweep study=first_frontier                               accuracy against budget, about 5 minutes
  The same command again goes on where it stopped; finished runs are not repeated.
""",
    "calibrate": """example:
  fedveil calibrate privacy.client.epsilon=8 privacy.client.delta=1e-5 privacy.client.clip=0.5 \\
      train.clients=5000 train.cohort.rate=0.1 train.rounds=50
""",
    "ledger": """examples:
  fedveil ledger 20260102-030405-dctdp-1f2e3d        what a run may claim
  fedveil ledger --owner hospital-7                  what the owner of a data set has spent, over all runs
  fedveil ledger --owner hospital-7 --picture spent.png   the same as a picture
""",
    "audit": """examples:
  fedveil audit 20260102-030405-none-1f2e3d          attack a run's claim; exit status 1 when it is refuted
  fedveil audit protection=none privacy.client.epsilon=8 privacy.client.delta=1e-5 privacy.client.clip=0.5 \\
      train.clients=2000 train.cohort.rate=0.25 train.rounds=10
  fedveil audit protection=dctdp protection.total_epsilon=8 --json audit.json
  No owner's data is used: canary clients and drawn patterns stand in for it.
""",
    "ui": """examples:
  fedveil ui                     the run store of this folder, at http://127.0.0.1:5000
  fedveil ui --port 5001 runs.root=elsewhere
""",
    "methods": """examples:
  fedveil methods                   one line each: protections, models, heads, data sources, aggregations
  fedveil methods --cost            payload, parameters and time of every protection at 112 x 112, measured now
  fedveil methods --cost --size 32
""",
    "protect": """examples:
  fedveil protect face.jpg protection=dctdp
  fedveil protect faces/ protection=dctdp protection.total_epsilon=8 --out protected.png
""",
    "enrol": """examples:
  fedveil enrol 20260102-030405-advface-1f2e3d faces/ --owner hospital-7
  fedveil enrol 20260102-030405-advface-1f2e3d table.npy --owner hospital-7 \\
      --out converted.npz     offline: clean features that the run's layers made
  For protections without a formal guarantee. Every gallery is a release, and
  booked in the owner's ledger first.
""",
    "bundle": """examples:
  fedveil bundle app/ study=quick
  flwr run app/ --stream --federation-config 'num-supernodes=10 client-resources-num-cpus=1'
""",
    "data": """examples:
  fedveil data inspect data=procedural
  fedveil data inspect data=folder data.root=~/faces data.evaluation=procedural
""",
}


def parser() -> argparse.ArgumentParser:
    """Return the argument parser of all commands."""
    groups = ", ".join([*config.METHOD_GROUPS, *config.SETTING_GROUPS])
    top = argparse.ArgumentParser(
        prog="fedveil",
        description="Federated face recognition on protected faces, with honest privacy accounting.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="`fedveil COMMAND --help` shows examples.",
    )
    top.add_argument("--version", action="version", version=f"fedveil {fedveil.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=_EXAMPLES[name] + _FORMS.format(groups=groups),
        )  # fmt: skip
        made.set_defaults(run=run)
        return made

    simulate = add("simulate", "run a federation on this machine and track it in MLflow", _simulate)
    simulate.add_argument("words", nargs="*", metavar="WORD", help="group=name or section.key=value")
    simulate.add_argument("--json", metavar="FILE", type=Path, help="also write the result here, as JSON")
    simulate.add_argument("--resume", metavar="RUN_ID", help="go on with an interrupted run")
    simulate.add_argument("--plain", action="store_true", help="no progress bar")
    sweep = add("sweep", "run a grid of federations and draw accuracy against privacy budget", _sweep)
    sweep.add_argument("words", nargs="*", metavar="WORD", help="key=a,b,c sweeps; key=[a,b] is one list value")
    sweep.add_argument("--workers", metavar="N", type=int, help="runs at once (default: one per core given)")
    sweep.add_argument("--name", metavar="NAME", help="id of the sweep instead of a hash of its grid")
    sweep.add_argument("--json", metavar="FILE", type=Path, help="also write what it found here, as JSON")
    sweep.add_argument("--plain", action="store_true", help="a line per finished run instead of a live table")
    calibrate = add("calibrate", "find the noise that meets a client-level budget, before training", _calibrate)
    calibrate.add_argument("words", nargs="*", metavar="WORD", help="the target and the planned schedule")
    ledger = add("ledger", "say in plain sentences what a run may claim, or what an owner has spent", _ledger)
    ledger.add_argument("run_id", nargs="?", metavar="RUN_ID", help="a run of the run store")
    ledger.add_argument("words", nargs="*", metavar="WORD", help="e.g. runs.root=elsewhere vault.root=elsewhere")
    ledger.add_argument("--owner", metavar="DATA_SET", help="a data set's id in the vault's ledger")
    ledger.add_argument("--json", metavar="FILE", type=Path, help="also write it here, as JSON")
    ledger.add_argument("--picture", metavar="FILE", type=Path, help="also draw epsilon over rounds or runs, as PNG")
    audit = add("audit", "attack what a run or a configuration claims: lower bounds on epsilon", _audit)
    audit.add_argument("run_id", nargs="?", metavar="RUN_OR_WORD", help="a run of the run store, or the first word")
    audit.add_argument("words", nargs="*", metavar="WORD", help="with a run: runs.root=elsewhere")
    audit.add_argument("--canaries", type=int, default=1000, help="canary clients of the replayed run (default 1000)")
    audit.add_argument("--draws", type=int, default=100_000, help="draws of a single release (default 100000)")
    audit.add_argument("--json", metavar="FILE", type=Path, help="also write it here, as JSON")
    ui = add("ui", "open the MLflow UI on the run store", _ui)
    ui.add_argument("words", nargs="*", metavar="WORD", help="e.g. runs.root=elsewhere tracking.uri=http://...")
    ui.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    ui.add_argument("--port", type=int, default=5000, help="port to listen on (default 5000)")
    methods = add("methods", "list protections, models, heads, data sources and aggregations", _methods)
    methods.add_argument("--cost", action="store_true", help="measure what each protection costs for one image instead")
    methods.add_argument("--size", type=int, metavar="N", help="with --cost: height and width in pixels (default 112)")
    protect = add("protect", "show what a protection makes of your images, as one PNG", _protect)
    protect.add_argument("images", type=Path, metavar="IMAGE_OR_FOLDER", help="an image file or a folder of them")
    protect.add_argument("words", nargs="*", metavar="WORD", help="e.g. protection=dctdp protection.total_epsilon=8")
    protect.add_argument("--out", type=Path, default=Path("protected.png"), help="picture to write (protected.png)")
    protect.add_argument("--count", type=int, default=6, help="images of a folder to show (default 6)")
    enrol = add("enrol", "write a gallery of protected faces for a recognition service", _enrol)
    enrol.add_argument("run_id", metavar="RUN_ID", help="a finished run, whose learnt protection is used")
    enrol.add_argument("source", type=Path, metavar="SOURCE", help="pictures, or .npy of clean features (advface)")
    enrol.add_argument("words", nargs="*", metavar="WORD", help="of runs, vault and policy")
    enrol.add_argument("--owner", required=True, metavar="DATA_SET", help="the data set's id in the owner's ledger")
    enrol.add_argument("--out", type=Path, default=Path("gallery.npz"), help="new file (gallery.npz)")
    bundle = add("bundle", "write a thin Flower app folder for `flwr run`", _bundle)
    bundle.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder")
    bundle.add_argument("words", nargs="*", metavar="WORD", help="e.g. study=quick")
    data = add("data", "inspect a data source: what it holds, what is wrong with it", _data)
    data.add_argument("action", choices=["inspect"])
    data.add_argument("words", nargs="*", metavar="WORD", help="e.g. data=folder data.root=~/faces")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one message on standard error and exit status 2."""
    top = parser()
    chosen, rest = top.parse_known_args(arguments)  # argparse loses the words that follow an option
    if rest and (not hasattr(chosen, "words") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        chosen.words = [*chosen.words, *rest]
    try:
        status: int = chosen.run(chosen)
        return status
    except checks.UserError as error:
        print(f"fedveil: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"fedveil: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfedveil: interrupted", file=sys.stderr)
        return 130


def _simulate(chosen: argparse.Namespace) -> int:
    from fedveil import report, simulate

    if chosen.json is not None and chosen.json.is_dir():
        raise checks.UserError(f"--json {chosen.json} is a folder; name a file.")
    settings, run_id = simulate.prepare(chosen.words, chosen.resume)
    mode = "plain" if chosen.plain else "auto"
    print(f"run {run_id} in {settings.runs.root}/")
    try:
        result = simulate.simulate(settings, run_id, mode)
        if simulate.has_reference(settings):
            print("the same recipe without protection, for comparison")
        bare = simulate.reference(settings, "quiet")
    except KeyboardInterrupt:
        again = f"fedveil simulate --resume {run_id}"
        print(f"\ninterrupted; `{again}` goes on after the last finished round", file=sys.stderr)
        return 130
    if bare is not None:
        result["reference"] = {"run_id": bare[0], "final": bare[1]["final"]}
    if chosen.json is not None:
        runs.write_json(chosen.json, result)
    root = settings.runs.root
    print(report.closing(settings, result, bare, "fedveil ui" if root == "runs" else f"fedveil ui runs.root={root}"))
    return 0


def _sweep(chosen: argparse.Namespace) -> int:
    from fedveil import sweep, tracking
    from fedveil.sweep import live, report

    made = sweep.prepare(chosen.words, chosen.name)
    cells, again = made.grid.cells, shlex.join(["fedveil", "sweep", *chosen.words])
    workers = min(sweep.cores() if chosen.workers is None else chosen.workers, len(cells))
    print(f"{made.sweep_id} in {made.root}/: {len(cells)} runs, {workers} at once")
    print("".join(f"{note}\n" for note in made.grid.notes), end="", flush=True)
    tracker = tracking.open_tracker(cells[0].settings.tracking, made.root)
    try:
        with live.Live(chosen.plain) as view:
            outcomes = sweep.run(made, workers, view.show, lambda: tracker.start(report.describe(made)))
    except KeyboardInterrupt:
        tracker.finish("KILLED")
        named = f" --name {chosen.name}" if chosen.name else ""
        print(f"\ninterrupted; all workers are stopped. `{again}{named}` goes on where it stopped", file=sys.stderr)
        return 130
    text, found = report.finish(made, outcomes, tracker)
    failed = any(outcome.state == "failed" for outcome in outcomes)
    tracker.finish("FAILED" if failed else "FINISHED")
    if chosen.json is not None:
        runs.write_json(chosen.json, found)
    print(text)
    return int(failed)


def _calibrate(chosen: argparse.Namespace) -> int:
    from fedveil import calibrate

    print(calibrate.calibrate(config.load(chosen.words)))
    return 0


def _ledger(chosen: argparse.Namespace) -> int:
    from fedveil import ledger_report

    words = list(chosen.words)
    if chosen.run_id is not None and "=" in chosen.run_id:
        words, chosen.run_id = [chosen.run_id, *words], None
    if (chosen.run_id is None) == (chosen.owner is None):
        raise checks.UserError("Name one: `fedveil ledger RUN_ID`, or `fedveil ledger --owner DATA_SET`.")
    settings = config.load(words)
    if chosen.owner is not None:
        found = ledger_report.of_owner(Path(settings.vault.root), chosen.owner)
    else:
        found = ledger_report.of_run(Path(settings.runs.root), str(chosen.run_id))
    if chosen.json is not None:
        runs.write_json(chosen.json, found)
    print(ledger_report.text(found))
    if chosen.picture is not None:
        from fedveil import ledger_curves

        if chosen.owner is not None:
            ledger_curves.of_owner(Path(settings.vault.root), chosen.owner, settings.policy, chosen.picture)
        else:
            ledger_curves.of_run(Path(settings.runs.root), str(chosen.run_id), chosen.picture)
        print(f"picture {chosen.picture}")
    return 0


def _audit(chosen: argparse.Namespace) -> int:
    from fedveil import audit

    words = [*([] if chosen.run_id is None else [chosen.run_id]), *chosen.words]
    found = audit.audit(audit.subject(words), chosen.canaries, chosen.draws)
    if chosen.json is not None:
        runs.write_json(chosen.json, found)
    print(audit.text(found))
    return int(found["violated"])


def _ui(chosen: argparse.Namespace) -> int:
    from fedveil import tracking

    settings = config.load(chosen.words)
    command = tracking.ui_command(settings.tracking, Path(settings.runs.root), chosen.host, chosen.port)
    print(f"MLflow UI at http://{chosen.host}:{chosen.port} (Ctrl-C stops it)")
    print("Runs are under Experiments > fedveil > Training runs; a sweep's are behind the + beside it.", flush=True)
    try:
        return subprocess.run(command, check=False, env={**os.environ, **tracking.UI_ENVIRONMENT}).returncode
    except KeyboardInterrupt:
        return 0


def _methods(chosen: argparse.Namespace) -> int:
    from fedveil import methods

    if chosen.size is not None and not chosen.cost:
        raise checks.UserError(f"--size {chosen.size} is the size of a measured image; add --cost.")
    if not chosen.cost:
        print(methods.listing())
        return 0
    for line in methods.costs(methods.SIZE if chosen.size is None else chosen.size):
        print(line, flush=True)
    return 0


def _protect(chosen: argparse.Namespace) -> int:
    from fedveil import protect

    settings = config.load(chosen.words)
    print(protect.protect(settings, chosen.images, chosen.out, chosen.count))
    return 0


def _enrol(chosen: argparse.Namespace) -> int:
    from fedveil import engine

    other = [word for word in chosen.words if word.split("=")[0].split(".")[0] not in ("runs", "vault", "policy")]
    if other:
        raise checks.UserError(f"{other[0]} is not the owner's to set: the run says how faces are protected.")
    enrol = engine.load("fedveil_clients.enrol:enrol")
    print(enrol(config.load(chosen.words), chosen.run_id, chosen.owner, chosen.source, chosen.out))
    return 0


def _bundle(chosen: argparse.Namespace) -> int:
    from fedveil import deploy, simulate

    settings = config.load(chosen.words)
    simulate.check(settings)
    print(f"{deploy.bundle(settings, chosen.folder)} for {settings.train.clients} clients")
    print(f"Install fedveil {fedveil.__version__} on every node; `flwr run {chosen.folder}` starts the run.")
    return 0


def _data(chosen: argparse.Namespace) -> int:
    from fedveil.data import inspect

    settings = config.load(chosen.words)
    print(inspect.inspect(settings.data.name, config.build(settings, "data"), settings.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
