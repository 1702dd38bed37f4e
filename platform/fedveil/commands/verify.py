"""Evaluate a finished run on the verification sets of the field.

One or many sets of pairs, or a benchmark of templates.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedveil import checks, config, console, records, runs
from fedveil.console import percent
from fedveil.data import files, ijb, verification
from fedveil.evaluation import protocol, templates
from fedveil.federation import recipe
from fedveil.federation.finished import Model, model_of

EXAMPLES = """examples:
  fedveil verify 20260102-030405-dctdp-1f2e3d faces_emore/ --public
  fedveil verify 20260102-030405-dctdp-1f2e3d lfw.bin --public --draws 5
  fedveil verify 20260102-030405-dctdp-1f2e3d IJBC/ --public --json ijbc.json
  A folder is every .bin and .csv in it, or IJB-B or IJB-C with its lists.
"""

READS = ("runs", "device", "device_batch")


def sets_of(source: Path) -> list[Path]:
    """Return the files of pairs that a place means: itself, or all of a folder.

    Raises:
        fedveil.checks.UserError: nothing there.
    """
    kind = files.kind(source)
    if kind != files.FOLDER:
        if kind != files.FILE:
            raise checks.UserError(f"{source} is {kind}; expected a file of verification pairs, or a folder of them.")
        return [source]
    found = [path for path in files.listing(source) if path.suffix.lower() in verification.kinds()]
    if not found:
        known = " or ".join(verification.kinds())
        raise checks.UserError(f"{source} holds no file of verification pairs ({known}), and is not IJB: {ijb.LAYOUT}.")
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_id", metavar="RUN_ID", help="a finished run of the run store")
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="a file of pairs, a folder of them, or IJB's folder"
    )
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. runs.root=elsewhere")
    parser.add_argument("--public", action="store_true", help="your word that these people's pictures are public")
    parser.add_argument("--draws", type=int, metavar="N", help="protections of every pair (the run's evaluation.draws)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was found here, as JSON")


def run(chosen: argparse.Namespace) -> int:
    """Print a table of one row a set."""
    if not chosen.public:
        raise checks.UserError(
            f"{chosen.source} measures accuracy on real people's faces in the open, and nobody has said that they are "
            "public. Say so with --public."
        )
    if chosen.draws is not None:
        checks.positive(draws=chosen.draws)
    model = model_of(config.load(chosen.words), chosen.run_id)
    found = _templates(model, chosen) if ijb.is_one(chosen.source) else _pairs(model, chosen)
    if chosen.json is not None:
        runs.write_json(chosen.json, {"run_id": chosen.run_id, **records.plain(found)})
    return 0


def _pairs(model: Model, chosen: argparse.Namespace) -> dict[str, Any]:
    federation, wanted = model.federation, model.federation.settings.evaluation
    places = sets_of(chosen.source)
    read = [verification.read(str(path), federation.size[0], True, setting="SOURCE") for path in places]
    head = "".join(f"{f'TAR@{far:g}':>10}" for far in wanted.far)
    print(f"{'':<14}{'pairs':>7}{'accuracy':>9}{'sd':>8}{'EER':>8}{head}")
    found = {}
    for path, pairs in zip(places, read, strict=True):
        result = protocol.evaluate(
            model.backbone, federation.protection, model.state, pairs, chosen.draws or wanted.draws,
            federation.settings.seed, wanted.gallery, wanted.far, repeats=wanted.bootstrap, place=federation.place,
            flip=recipe.evaluates_flips(federation.settings, federation.protection),
        )  # fmt: skip
        rates = [percent(rate) for rate in (result.accuracy, result.fold_sd, result.eer)]
        row = f"{path.stem[:13]:<14}{len(pairs):>7}{rates[0]:>9}{rates[1]:>8}{rates[2]:>8}"
        print(row + "".join(_rates(result.tar, wanted.far)), flush=True)
        for note in pairs.faces.notes:
            console.tell(f"  {path.name}: {note}")
        kept = {**dataclasses.asdict(result), "notes": pairs.faces.notes}
        found[path.name] = {name: value for name, value in kept.items() if name != "roc"}
    return {"sets": found}


def _templates(model: Model, chosen: argparse.Namespace) -> dict[str, Any]:
    federation = model.federation
    if chosen.draws is not None:
        raise checks.UserError("--draws does nothing for templates, whose pictures are protected once.")
    read = ijb.read(chosen.source, federation.size[0])
    flip = recipe.evaluates_flips(federation.settings, federation.protection)
    result = templates.evaluate(
        model.backbone, federation.protection, model.state, read, federation.settings.seed,
        place=federation.place, flip=flip,
    )  # fmt: skip
    print(f"{result.pairs} pairs of {result.templates} templates, {result.images} pictures; EER {percent(result.eer)}")
    for far, rate in zip(templates.FARS, _rates(result.tar, templates.FARS), strict=True):
        print(f"TAR at FAR {far:g}{rate}")
    return {"templates": dataclasses.asdict(result)}


def _rates(tar: dict[float, Any], fars: Sequence[float]) -> list[str]:
    return [f"{percent(tar[far]) if isinstance(tar[far], float) else 'unresolved':>10}" for far in fars]
