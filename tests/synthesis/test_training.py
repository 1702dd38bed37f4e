"""Learning a generator: the loss falls, an interruption changes nothing, a file of it is read back or refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedveil import checks, config, device, records
from fedveil.data.sources.procedural import draw_faces
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil.generators._network import Generator
from fedveil.storage import safetensors
from fedveil.synthesis import checkpoint, recogniser, training
from fedveil.synthesis.training import Training

sys.path.append(str(Path(__file__).parents[1] / "generators"))

FACES = draw_faces(1, 0, 6, 4, 32)
SMALL = Training(steps=12, batch_size=8, every=4, lr=3e-3, average=0.5)
WORDS = [
    "generator=id3", "generator.width=8", "generator.multipliers=[1,2]", "generator.attention=0",
    "generator.context=16", "protection=none", "generator.shared=true",
    "model.width=8", "model.embedding=16", "data.identities=6",
]  # fmt: skip


def fresh() -> Generator:
    from tiny_generator import built

    found = built()
    found.fit(training.in_range(torch.from_numpy(FACES.images())))
    return found


def loss(generator: Generator) -> float:
    coins = torch.Generator().manual_seed(5)
    pixels = training.in_range(torch.from_numpy(FACES.images()))
    with torch.no_grad():
        return float(torch.stack([generator.losses(generator.drawn(pixels, coins)).mean() for _ in range(8)]).mean())


def test_the_loss_falls(tmp_path: Path) -> None:
    generator = fresh()
    before = loss(generator)
    training.train(generator, FACES, Training(steps=40, batch_size=8, lr=3e-3, average=0.5), 1, tmp_path / "a.npz",
                   device.HOST)  # fmt: skip
    assert loss(generator) < 0.9 * before


@pytest.mark.parametrize("stop", [4, 6, 11])
def test_interrupted_and_continued_it_ends_with_equal_bits(tmp_path: Path, stop: int) -> None:
    whole, parted = fresh(), fresh()
    training.train(whole, FACES, SMALL, 1, tmp_path / "whole.npz", device.HOST)

    def interrupt(what: str, done: int, total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(parted, FACES, SMALL, 1, tmp_path / "parted.npz", device.HOST, interrupt)
    again = fresh()
    steps: list[int] = []
    training.train(again, FACES, SMALL, 1, tmp_path / "parted.npz", device.HOST, lambda _, done, __: steps.append(done))
    assert steps[0] == stop // SMALL.every * SMALL.every + 1 if stop > SMALL.every else steps[0] in (1, 5)
    for name, tensor in get_tensors(whole).items():
        assert np.array_equal(tensor, get_tensors(again)[name]), name
    frozen = {name for name, _ in fresh().named_parameters() if not name.startswith("denoiser.")}
    for name in frozen:
        assert np.array_equal(get_tensors(fresh())[name], get_tensors(whole)[name]), name


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    training.train(fresh(), FACES, SMALL, 1, tmp_path / "state.npz", device.HOST)
    with pytest.raises(checks.UserError, match="another training"):
        training.train(fresh(), FACES, SMALL, 2, tmp_path / "state.npz", device.HOST)
    with pytest.raises(checks.UserError, match="another training"):  # as many faces, of other people
        training.train(fresh(), draw_faces(2, 0, 6, 4, 32), SMALL, 1, tmp_path / "state.npz", device.HOST)
    (tmp_path / "state.npz").write_bytes(b"PK")
    with pytest.raises(checks.UserError, match=r"state\.npz"):
        training.train(fresh(), FACES, SMALL, 1, tmp_path / "state.npz", device.HOST)


def test_a_recogniser_learns_and_one_that_is_given_fits_or_is_refused(tmp_path: Path) -> None:
    federation = Federation.of(WORDS)
    found = recogniser.recogniser(federation, federation.split.train, None, 4, device.HOST)
    tensors = get_tensors(found)
    path = tmp_path / "own.safetensors"
    path.write_bytes(safetensors.pack(tensors, {}))
    again = recogniser.recogniser(federation, federation.split.train, str(path), 4, device.HOST)
    assert records.model_sha256(get_tensors(again)) == records.model_sha256(tensors)
    other = Federation.of([*WORDS, "model.embedding=32"])
    with pytest.raises(checks.UserError, match=r"embed\.weight has shape \(16,"):
        recogniser.recogniser(other, federation.split.train, str(path), 4, device.HOST)
    with pytest.raises(checks.UserError, match="no-such"):
        recogniser.recogniser(federation, federation.split.train, "no-such", 4, device.HOST)


def test_a_generator_comes_back_from_its_file_with_whom_it_learnt_from(tmp_path: Path) -> None:
    federation = Federation.of(WORDS)
    generator, path = federation.backbone(), tmp_path / "generator.safetensors"
    assert isinstance(generator, Generator)
    origin = checkpoint.Origin("public", "drawn people")
    digest = checkpoint.write(path, generator, federation.settings, origin)
    learnt = checkpoint.read(str(path), config.load([]))
    assert (learnt.sha256, learnt.origin) == (digest, origin)
    assert records.model_sha256(get_tensors(learnt.generator)) == digest
    assert learnt.generator.size == (32, 32)


@pytest.mark.parametrize("key", ["format", "generator", "model", "size", "origin"])
def test_a_file_that_lacks_a_word_of_itself_is_refused(tmp_path: Path, key: str) -> None:
    federation = Federation.of(WORDS)
    path = tmp_path / "generator.safetensors"
    checkpoint.write(path, federation.backbone(), federation.settings, checkpoint.Origin("public", "drawn people"))
    arrays, meta = safetensors.unpack(path)
    for wrong in ({name: value for name, value in meta.items() if name != key}, {**meta, key: "[]"}):
        path.write_bytes(safetensors.pack(arrays, wrong))
        with pytest.raises(checks.UserError, match="generator"):
            checkpoint.read(str(path), config.load([]))


def test_tensors_of_another_shape_and_runs_of_recognisers_are_refused(tmp_path: Path) -> None:
    federation = Federation.of(WORDS)
    path = tmp_path / "generator.safetensors"
    checkpoint.write(path, federation.backbone(), federation.settings, checkpoint.Origin("public", "drawn people"))
    arrays, meta = safetensors.unpack(path)
    wider = {**meta, "generator": json.dumps({**json.loads(meta["generator"]), "width": 16})}
    path.write_bytes(safetensors.pack(arrays, wider))
    with pytest.raises(checks.UserError, match="has shape"):
        checkpoint.read(str(path), config.load([]))
    with pytest.raises(checks.UserError, match="there-is-none"):
        checkpoint.read("there-is-none", config.load([f"runs.root={tmp_path}"]))


def test_half_precision_learns_and_keeps_its_parameters_whole(tmp_path: Path) -> None:
    generator = fresh()
    before = loss(generator)
    place = device.place("cpu", "bf16")
    wanted = Training(steps=40, batch_size=8, lr=3e-3, average=0.5)
    training.train(generator, FACES, wanted, 1, tmp_path / "a.npz", place)
    assert loss(generator) < 0.9 * before
    assert {tensor.dtype for tensor in generator.parameters()} == {torch.float32}


def test_what_is_left_is_the_average_of_the_steps_and_not_the_last(tmp_path: Path) -> None:
    generator, seen = fresh(), []
    first = get_tensors(generator)["denoiser.first.weight"]

    def look(what: str, done: int, total: int) -> None:
        seen.append(get_tensors(generator)["denoiser.first.weight"])

    training.train(generator, FACES, SMALL, 1, tmp_path / "a.npz", device.HOST, look)
    mean = first.astype(np.float64)
    for step, value in enumerate(seen, 1):
        past = min(SMALL.average, step / (step + 10))
        mean = past * mean + (1 - past) * value
    left = get_tensors(generator)["denoiser.first.weight"]
    np.testing.assert_allclose(left, mean, atol=1e-6)
    assert np.abs(left - seen[-1]).max() > 1e-4
