"""Write a gallery of protected faces for a recognition service."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedveil import config, console, engine

EXAMPLES = """examples:
  fedveil enrol 20260102-030405-advface-1f2e3d faces/ --owner hospital-7
  fedveil enrol 20260102-030405-advface-1f2e3d table.npy --owner hospital-7 \\
      --out converted.npz   # offline: clean features of the run's layers
  For protections without a formal guarantee. Every gallery is a release, and
  booked in the owner's ledger first.
"""

READS = ("runs", "vault", "policy")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_id", metavar="RUN_ID", help="a finished run, whose learnt protection is used")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="pictures, or .npy of clean features (advface)")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="of runs, vault and policy")
    parser.add_argument("--owner", required=True, metavar="DATA_SET", help="the data set's id in the owner's ledger")
    parser.add_argument("--out", type=Path, default=Path("gallery.npz"), help="new file (gallery.npz)")


def run(chosen: argparse.Namespace) -> int:
    """Have the owner's side write the gallery, and print what it did."""
    enrol = engine.load("fedveil_clients.enrol:enrol")
    console.tell(enrol(config.load(chosen.words), chosen.run_id, chosen.owner, chosen.source, chosen.out))
    return 0
