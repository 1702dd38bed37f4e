"""What every protection in the folder promises, found by listing it; a new file is tested without editing this one."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fedveil.checks import UserError
from fedveil.configuration import plugins
from fedveil.data.sources.procedural import draw_faces
from fedveil.privacy import events
from fedveil.protections.base import Visit
from fedveil.randomness import SecretStream, test_key

NAMES = plugins.names("protection")
SIZE = (16, 16)
FACES = draw_faces(1, 0, identities=6, images_per_identity=4, size=16)
PUBLIC = FACES.images(np.arange(len(FACES)))
IMAGES = torch.from_numpy(draw_faces(1, 100, identities=5, images_per_identity=1, size=16).images(np.arange(5)))
CONFIGS = Path(__file__).parents[2] / "configs" / "protection"
QUICK = {"fit_steps": 1}  # settings that only cost time


def streams(purpose: str = "a", count: int = len(IMAGES)) -> list[SecretStream]:
    return [SecretStream(test_key(1, purpose, index)) for index in range(count)]


@pytest.fixture(params=NAMES, scope="module")
def fitted(request: pytest.FixtureRequest) -> tuple[Any, dict[str, torch.Tensor]]:
    known = {field.name for field in dataclasses.fields(plugins.method("protection", request.param))}
    settings = {name: value for name, value in QUICK.items() if name in known}
    protection = plugins.build("protection", request.param, settings)
    return protection, protection.fit(PUBLIC, np.asarray(FACES.labels), 1, lambda done, of: None)


def test_the_folder_has_the_two_first_methods() -> None:
    assert {"none", "dctdp"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_file_has_the_keys_and_defaults_of_the_dataclass(name: str) -> None:
    method = plugins.method("protection", name)
    text = (CONFIGS / f"{name}.yaml").read_text()
    loaded = OmegaConf.to_container(OmegaConf.create(text))
    defaults = {field.name: field.default for field in dataclasses.fields(method)}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    assert loaded == plain
    assert {key: type(value) for key, value in loaded.items()} == {key: type(value) for key, value in plain.items()}
    for line in text.splitlines():
        if ":" in line and not line.startswith(("#", " ")):
            assert "#" in line, f"{name}.yaml: no comment at {line!r}"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_frozen_documented_dataclass(name: str) -> None:
    method = plugins.method("protection", name)
    assert dataclasses.is_dataclass(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method().anything = 1
    assert plugins.summary("protection", name)
    with pytest.raises(UserError, match="Unknown setting"):
        plugins.build("protection", name, {"no_such_setting": 1})


def test_shapes_types_and_untouched_inputs(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, state = fitted
    images, before = IMAGES.clone(), {name: tensor.clone() for name, tensor in state.items()}
    released = protection.release(images, state, streams())
    assert released.dtype == torch.float32
    assert released.shape == (len(images), *protection.representation(SIZE))
    assert torch.isfinite(released).all()
    kept = released.clone()
    features = protection.features(released, state)
    assert features.dtype == torch.float32
    assert features.shape == (len(images), *protection.layout(SIZE))
    assert 0.05 < float(features.square().mean().sqrt()) < 20
    picture = protection.render(released, state, SIZE)
    assert picture.dtype == torch.uint8
    assert picture.shape == images.shape
    assert protection.clean(images, state).shape == released.shape
    assert torch.equal(images, IMAGES)
    assert torch.equal(released, kept)
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert not released.requires_grad
    assert not features.requires_grad


def test_an_empty_batch_passes(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, state = fitted
    released = protection.release(IMAGES[:0], state, [])
    assert released.shape == (0, *protection.representation(SIZE))
    assert protection.features(released, state).shape == (0, *protection.layout(SIZE))


def test_equal_keys_repeat_and_other_keys_differ(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, state = fitted
    one = protection.release(IMAGES, state, streams())
    assert torch.equal(one, protection.release(IMAGES, state, streams()))
    other = protection.release(IMAGES, state, streams("b"))
    assert torch.equal(one, other) is not bool(protection.noise)


def test_equal_images_of_a_batch_get_their_own_draws(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, state = fitted
    one, two = protection.release(IMAGES[:1].expand(2, -1, -1, -1), state, streams(count=2))
    assert torch.equal(one, two) is not bool(protection.noise)


def test_a_release_does_not_depend_on_the_batch(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, state = fitted
    together = protection.release(IMAGES, state, streams())
    alone = protection.release(IMAGES[3:4], state, streams()[3:4])
    assert torch.equal(together[3:4], alone)
    apart = protection.features(together[3:4], state)
    assert torch.allclose(protection.features(together, state)[3:4], apart, atol=1e-5)


def test_what_is_prepared_changes_no_bit_of_what_training_reads(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    """A client keeps it for as long as its memory allows: a run must not depend on how long that was."""
    protection, state = fitted
    given = protection.prepared(IMAGES, state)
    keys = [bytes([index]) for index in range(len(IMAGES))]
    without = protection.training_features(IMAGES, state, Visit(streams(), keys))
    assert torch.equal(protection.training_features(IMAGES, state, Visit(streams(), keys, given)), without)
    assert without.shape == (len(IMAGES), *protection.layout(SIZE))
    if given is not None:
        assert given.dtype == torch.float32
        alone = torch.cat([protection.prepared(image[None], state) for image in IMAGES])
        assert torch.equal(given, alone), "a row may not depend on the other images of a batch"
        other = protection.training_features(IMAGES, state, Visit(streams(), keys, given.flip(0)))
        assert not torch.equal(other, without), "what is prepared must be read, or it is not worth its memory"
        assert protection.prepared(IMAGES[:0], state).shape == (0, *given.shape[1:])


def test_shared_streams_are_refused(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, state = fitted
    if not protection.noise:
        return
    shared = streams(count=1)[0]
    with pytest.raises(UserError, match="stream"):
        protection.release(IMAGES[:2], state, [shared, shared])
    with pytest.raises(UserError, match="stream"):
        protection.release(IMAGES, state, streams(count=1))


def test_features_are_post_processing(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, _ = fitted
    for method in (protection.features, protection.render):
        taken = set(inspect.signature(method).parameters)
        assert taken <= {"released", "state", "size"}, "nothing after the release may see a clean value"


def test_images_of_another_kind_are_refused(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, state = fitted
    for wrong in (IMAGES.float(), IMAGES[:, :1], IMAGES[0]):
        with pytest.raises(UserError, match="images"):
            protection.release(wrong, state, streams(count=len(wrong)))


def test_the_event_is_plain_data(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, state = fitted
    event = protection.event(SIZE, state, releases=3, max_images_per_identity=7)
    plain = events.to_dict(event)
    json.dumps(plain, allow_nan=False)
    assert events.from_dict(plain) == event
    if isinstance(event, events.LocalRelease):
        assert (event.releases, event.max_images_per_identity) == (3, 7)
        assert protection.noise, "a formal claim needs noise"
        names = [name for name, _ in event.detail]
        assert names == sorted(names)


def test_the_planned_event_is_the_event_without_a_state(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    """Owners decide by it before anything is learnt or sent."""
    protection, state = fitted
    planned = protection.planned(SIZE, releases=3, max_images_per_identity=7)
    event = protection.event(SIZE, state, releases=3, max_images_per_identity=7)
    if isinstance(event, events.LocalRelease):
        assert dataclasses.replace(planned, detail=()) == dataclasses.replace(event, detail=())
        assert set(planned.detail) <= set(event.detail)
    else:
        assert dataclasses.replace(planned, reason="") == dataclasses.replace(event, reason="")


def test_a_state_of_another_kind_is_refused(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, state = fitted
    protection.check_state(state, SIZE)
    others: list[dict[str, torch.Tensor]] = [{**state, "more": torch.zeros(1)}]
    for name, value in state.items():
        others.append({key: kept for key, kept in state.items() if key != name})
        others.append({**state, name: torch.zeros(*value.shape, 2)})
        others.append({**state, name: torch.full_like(value, math.nan)})
        others.append({**state, name: value.to(torch.int64)})
    for other in others:
        with pytest.raises(UserError):
            protection.check_state(other, SIZE)


def test_fit_reads_only_public_faces_and_its_seed(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    protection, state = fitted
    torch.manual_seed(123)
    np.random.seed(5)
    before = PUBLIC.copy()
    again = protection.fit(PUBLIC, np.asarray(FACES.labels), 1)
    assert np.array_equal(before, PUBLIC)
    assert set(again) == set(state)
    assert bool(again) == protection.needs_fit
    for name, tensor in again.items():
        assert torch.equal(tensor, state[name])
        assert not tensor.requires_grad
        assert torch.isfinite(tensor).all()


def test_a_mirrored_release_is_the_release_of_the_mirrored_face(fitted: tuple[Any, dict[str, torch.Tensor]]) -> None:
    """For the deterministic part; what is random is moved with it. Who does not promise it is not asked."""
    protection, state = fitted
    straight, turned = protection.clean(IMAGES, state), protection.clean(IMAGES.flip(-1), state)
    scale = float(turned.abs().mean())
    if not protection.mirrors:
        with pytest.raises(NotImplementedError):
            protection.mirrored(straight)
        return
    before = straight.clone()
    found = protection.mirrored(straight)
    assert torch.equal(straight, before)
    assert torch.allclose(found, turned, atol=2e-5 * scale + 1e-3)
    assert not torch.allclose(straight, turned, atol=0.01 * scale)
    released = protection.release(IMAGES, state, streams())
    mirrored = protection.mirrored(released)
    assert torch.equal(protection.mirrored(mirrored), released)
    picture = protection.render(mirrored, state, SIZE).float()
    mean = float((picture - protection.render(released, state, SIZE).flip(-1)).abs().mean())
    assert mean < 8, "up to the public mean face, which need not be symmetric, the picture is the mirrored one"
    parameters = set(inspect.signature(protection.mirrored).parameters)
    assert parameters == {"released"}, "it may not see a clean value or a draw"
