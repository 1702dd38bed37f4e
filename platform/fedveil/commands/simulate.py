"""Run a federation on this machine and track it in MLflow.

The main job: configuration -> the two apps on an engine -> result, table, ledger in plain sentences.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedveil import checks, config, console, engine, readback, runs
from fedveil.commands import summary
from fedveil.configuration import places
from fedveil.configuration.schema import Config, Group
from fedveil.federation import planning, synthetic, warm_start
from fedveil.federation.federation import Federation
from fedveil.tracking import mirror

EXAMPLES = """examples:
  fedveil simulate                              # drawn faces, about a minute
  fedveil simulate protection=none train.rounds=10
  fedveil simulate protection.total_epsilon=8   # a meaningful budget per image
  fedveil simulate data=folder data.root=faces data.evaluation=procedural
  fedveil simulate --resume 20260102-030405-dctdp-1f2e3d
"""

TRACKS = True

_FREE = places.sections()
"""Sections that a resumed run may change: they say where it runs and is kept, not what it computes."""


def prepare(words: Sequence[str], resume: str | None) -> tuple[Federation, str]:
    """Return the federation and run id of a new run, or of the one to resume; changed overrides are refused.

    What can be refused is refused here: before a run has a name, and before anything is written.
    """
    if resume is None:
        federation = Federation.of(words)
        warm_start.check(federation)
        engine.load("fedveil_clients.vault_folder:usable")(node_words(federation.settings))
        federation.check()  # also reads the data, which the workers inherit
        federation.check_clients()
        return federation, runs.new_run_id(federation.settings.method)
    where = [word for word in words if word.split("=")[0].split(".")[0] in _FREE]
    root = Path(config.compose(where).runs.root)  # the rest is read beside the run's own settings
    kept = readback.settings_of(runs.open_run(root, resume))
    if words:
        wanted = planning.planned(config.load(words, on=kept))
        if config.digest(wanted) != config.digest(kept):
            raise checks.UserError(
                f"Run {resume} cannot go on with other settings: {', '.join(_changes(kept, wanted))}. "
                "Start a new run for them."
            )
        kept = wanted
    return Federation(dataclasses.replace(kept, runs=dataclasses.replace(kept.runs, root=str(root)))), resume


def _changes(kept: Config, wanted: Config) -> list[str]:
    """Return `key=new (was old)` for everything that may not change; of another method, its name alone."""
    old, new = config.flat(kept), config.flat(wanted)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key) and key.split(".")[0] not in _FREE]
    swapped = {key.removesuffix(".name") for key in keys if key.endswith(".name")}
    shown = [key for key in keys if key.endswith(".name") or key.split(".")[0] not in swapped]
    return [f"{key}={new.get(key)} (was {old.get(key)})" for key in shown]


def simulate(
    federation: Federation, run_id: str, progress: str = "auto", parent: str = "", began: float | None = None
) -> dict[str, Any]:
    """Run one federation on the configured engine and return result.json's content; a finished run's at once.

    What a tracker lacks of a finished run is sent.

    Args:
        federation: what is run.
        run_id: a new run, or one to go on with.
        progress: see `console.Console`.
        parent: id of the sweep that the run belongs to in MLflow; empty for none.
        began: when whoever waits for the run began to, `time.perf_counter`; None for now.
    """
    began = time.perf_counter() if began is None else began
    settings = federation.settings
    run = runs.Run(Path(settings.runs.root), run_id)
    if run.result.exists():
        result = read_result(settings, run_id)
        if sent := mirror.catch_up(federation, run):
            print(sent)
        return result
    run_config = {
        "config": config.to_json(settings), "run-id": run_id, "progress": progress, "parent": parent, "began": began,
    }  # fmt: skip
    engine.run(settings.engine, settings.train.clients, run_config, node_words(settings))
    return read_result(settings, run_id)


def node_words(settings: Config) -> dict[str, Any]:
    """Return the words of a simulation's nodes: one person's, on this machine, who may fix the noise.

    They reach the nodes with the engine, in no message.
    """
    words: dict[str, Any] = {"simulated": True, "allow-test-seed": True, "vault-root": settings.vault.root}
    words["device"] = settings.device
    if settings.device_batch is not None:
        words["device-batch"] = settings.device_batch
    if synthetic.has_bank(settings):
        words["identity-bank"] = settings.train.synthetic
    place = places.of_source(settings.data.name)
    return words if place is None else {**words, "data-root": settings.data.settings.get(place, "")}


def read_result(settings: Config, run_id: str) -> dict[str, Any]:
    """Return what a finished run found."""
    return readback.result_of(runs.Run(Path(settings.runs.root), run_id))


def without_protection(settings: Config) -> Config:
    """Return the same recipe on unprotected faces, without private training."""
    bare = config.load(["protection=none"]).protection
    off = dataclasses.replace(
        settings.policy, floor=None, max_epsilon=None, max_total_epsilon=None, max_client_epsilon=None
    )
    bare_privacy = dataclasses.replace(settings.privacy, client=None, image=None, identity=None)
    generator = settings.generator
    if generator.name != "none":
        generator = Group(generator.name, {**generator.settings, "shared": True})
    return dataclasses.replace(
        settings, protection=Group(bare.name, bare.settings), policy=off, privacy=bare_privacy, generator=generator
    )


def has_reference(federation: Federation) -> bool:
    """Return whether an unprotected reference run is wanted and may be trained.

    On private faces it may not: training on them without protection is what they are protected from. Where the owner
    limits what all runs spend together, it may not either: one run without a guarantee leaves no finite total.
    """
    settings = federation.settings
    guarded = settings.protection.name != "none" or federation.private is not None
    wanted = settings.evaluation.reference and guarded and not settings.policy.over_runs
    return wanted and federation.split.public_benchmark


def reference(federation: Federation, progress: str) -> tuple[str, dict[str, Any]] | None:
    """Return (run id, result) of the same recipe without protection: an earlier run's if there is one; None if off."""
    if not has_reference(federation):
        return None
    bare = without_protection(federation.settings)
    wanted = config.digest(bare)
    for run, found in readback.finished(Path(bare.runs.root)):
        if found["config_hash"] == wanted:
            return run.run_id, found
    run_id = runs.new_run_id("reference")
    return run_id, simulate(Federation(bare), run_id, progress)


def _compared(federation: Federation) -> tuple[str, dict[str, Any]] | None:
    if has_reference(federation):
        console.tell("the same recipe without protection, for comparison")
    return reference(federation, "quiet")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="group=name or section.key=value")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the result here, as JSON")
    parser.add_argument("--resume", metavar="RUN_ID", help="go on with an interrupted run")
    parser.add_argument("--plain", action="store_true", help="no progress bar")


def run(chosen: argparse.Namespace) -> int:
    """Simulate, then its unprotected reference, and print the closing summary."""
    if chosen.json is not None and chosen.json.is_dir():
        raise checks.UserError(f"--json {chosen.json} is a folder; name a file.")
    federation, run_id = prepare(chosen.words, chosen.resume)
    settings, mode = federation.settings, "plain" if chosen.plain else "auto"
    console.tell(f"run {run_id} in {settings.runs.root}/")
    first = settings.privacy.client is not None  # when a later reference began would tell how long the run took
    try:
        bare = _compared(federation) if first else None
        result = simulate(federation, run_id, mode, began=None if first else chosen.began)
        bare = bare or _compared(federation)
    except KeyboardInterrupt:
        again = f"fedveil simulate --resume {run_id}"
        if not runs.Run(Path(settings.runs.root), run_id).config.exists():
            console.complain("\ninterrupted before the run began; nothing was released")
        else:
            console.complain(f"\ninterrupted; `{again}` goes on after the last finished round")
        return 130
    if bare is not None:
        result["reference"] = {"run_id": bare[0], "final": bare[1]["final"]}
    if chosen.json is not None:
        runs.write_json(chosen.json, result)
    console.tell(summary.closing(settings, result, bare, time.perf_counter() - chosen.began))
    return 0
