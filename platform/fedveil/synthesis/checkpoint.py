"""A learnt generator as one file: its tensors, how it is built, and whose faces it has learnt from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

from fedveil import checks, config, readback, records, runs
from fedveil.configuration.schema import Config
from fedveil.data.provenance import Mode
from fedveil.federation import starting
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors, set_tensors
from fedveil.generators._network import Generator
from fedveil.storage import safetensors

_FORMAT = "fedveil generator 1"
_REMEDY = "`fedveil synthesize` writes such files."


@dataclasses.dataclass(frozen=True)
class Origin:
    """Whose faces a generator has learnt from.

    Attributes:
        mode: "public", of people whose pictures are public; "federated", of owners under a budget; "shared", of people
            whose owner shares what was learnt without any guarantee.
        learnt_from: the same in words.
        statements: of result.json, what is guaranteed to those people; none where nothing is.
    """

    mode: Mode
    learnt_from: str
    statements: tuple[dict[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Learnt:
    """A generator that was read.

    Attributes:
        sha256: of its tensors.
    """

    generator: Generator
    origin: Origin
    sha256: str


def write(path: Path, generator: Generator, settings: Config, origin: Origin) -> str:
    """Write a generator, whole or not at all, and return the SHA-256 of its tensors.

    Raises:
        OSError: naming `path`.
    """
    arrays = get_tensors(generator)
    digest = records.model_sha256(arrays)
    tree = config.to_tree(settings)
    meta = {
        "format": _FORMAT,
        "generator_sha256": digest,
        "generator": json.dumps(tree["generator"]),
        "model": json.dumps(tree["model"]),
        "size": str(settings.data.settings["size"]),
        "origin": json.dumps(dataclasses.asdict(origin)),
    }
    runs.write_atomic(path, safetensors.pack(arrays, meta))
    return digest


def read(place: str, settings: Config) -> Learnt:
    """Return the generator of a file, or of a run of generator=id3.

    Args:
        place: a file, or a run id of the run store.
        settings: say where the run store is.

    Raises:
        fedveil.checks.UserError: no such file or run, or something else than a generator in it.
    """
    if Path(place).is_file():
        return _of_file(Path(place))
    run = runs.open_run(Path(settings.runs.root), place)
    kept = readback.settings_of(run)
    if kept.generator.name == "none":
        raise checks.UserError(
            f"Run {place} trained a recogniser, not a generator; give a run of generator=id3, or a file. {_REMEDY}"
        )
    if not run.result.exists():
        raise checks.UserError(f"Run {place} is not finished: `fedveil simulate --resume {place}` goes on with it.")
    federation = Federation(kept)
    generator = federation.backbone()
    tensors = starting.fitted(run.checkpoint, generator, kept.model.name)
    set_tensors(generator, tensors)
    statements = tuple(readback.result_of(run)["statements"])
    formal = any(one["epsilon"] is not None for one in statements)
    origin = Origin("federated" if formal else "shared", f"the owners of run {place}", statements if formal else ())
    return Learnt(_checked(generator), origin, records.model_sha256(tensors))


def _of_file(path: Path) -> Learnt:
    _, meta = safetensors.unpack(path)
    if meta.get("format") != _FORMAT:
        raise checks.UserError(f"{path} holds no generator of this version. {_REMEDY}")
    try:
        method, model, origin = (json.loads(meta[name]) for name in ("generator", "model", "origin"))
        size = int(meta["size"])
        checks.one_of(get_args(Mode), mode=origin["mode"])
        learnt = Origin(origin["mode"], str(origin["learnt_from"]), tuple(origin["statements"]))
        bare = config.load(["protection=none", f"data.size={size}"])
        method = {**method, "shared": True}  # it is not learnt here: `origin` says whose faces it has seen
        tree = {**config.to_tree(bare), "generator": method, "model": model}
        federation = Federation(config.parse(tree))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise checks.UserError(f"{path} does not say what generator it holds ({error}). {_REMEDY}") from error
    generator = federation.backbone()
    tensors = starting.fitted(path, generator, federation.settings.model.name)
    set_tensors(generator, tensors)
    return Learnt(_checked(generator), learnt, records.model_sha256(tensors))


def _checked(network: Any) -> Generator:
    if not isinstance(network, Generator):
        raise checks.UserError(f"Expected a generator of faces, got {type(network).__name__}; choose generator=id3.")
    return network
