"""Inspect a data source, pack it into one file, or align photographs.

One file here is one action; `ACTIONS` names them.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

EXAMPLES = """examples:
  fedveil data inspect data=procedural
  fedveil data inspect data=folder data.root=faces data.evaluation=procedural
  fedveil data pack data=folder data.root=faces data.size=112 --out faces.npz
  fedveil data pack data=rec data.path=train.rec --out ms1m.npz
  fedveil data align --photographs photos/ --landmarks points.csv --out faces/
  fedveil data align --photographs photos/ --detector yunet.onnx --out faces/
"""

ACTIONS = {"inspect": "inspecting", "pack": "packing", "align": "aligning"}
"""Action -> its module, which has `OPTIONS`, the options that it reads, and `run(chosen)`."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=" or ".join(ACTIONS))
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. data=folder data.root=faces")
    parser.add_argument(
        "--out", type=Path, metavar="PLACE", help="pack: new file (faces.npz); align: new folder (aligned)"
    )
    parser.add_argument("--quality", type=int, metavar="N", help="pack: of JPEG, 1 to 100 (95)")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="align: PERSON/PICTURE")
    parser.add_argument("--landmarks", type=Path, metavar="FILE", help="align: CSV, five points of every face")
    parser.add_argument("--detector", type=Path, metavar="FILE", help="align: OpenCV's YuNet, an .onnx file")
    parser.add_argument("--size", type=int, metavar="N", help="align: pixels, a multiple of 8 (112)")


def run(chosen: argparse.Namespace) -> int:
    """Do what the action says; an option of another action is refused."""
    action = importlib.import_module(f"{__name__}.{ACTIONS[chosen.action]}")
    for option in ("out", "quality", "photographs", "landmarks", "detector", "size"):
        if getattr(chosen, option) is not None and option not in action.OPTIONS:
            chosen.parser.error(f"--{option} does nothing for `fedveil data {chosen.action}`.")
    status: int = action.run(chosen)
    return status
