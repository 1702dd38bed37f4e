"""The linear attack's algebra against dense oracles: normal equations, rank, least squares, posterior means, orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedveil import frequency, randomness
from fedveil.attacks._linear_known import Known, map_of, sent
from fedveil.attacks._linear_map import Map, Smooth
from fedveil.attacks._linear_order import Orders
from fedveil.attacks._linear_prior import LeastSquares, Posterior, Prior, learn, planes_of
from fedveil.protections import _duet, partialface
from fedveil.protections._linear import LinearMap

SIZE = (16, 16)
MAPS = {
    "pixels": LinearMap("pixels"),
    "block": LinearMap("block", (frequency.AC,)),
    "all channels": LinearMap("upsampled", (tuple(range(64)),)),
    "without the mean": LinearMap("upsampled", (frequency.AC,)),
    "half-pixel": LinearMap("upsampled", (frequency.AC,), align_corners=False),
    "DuetFace": LinearMap("upsampled", (_duet.SERVER,)),
    "nine": LinearMap("upsampled", (partialface.PUBLISHED[5],)),
}


def images(count: int, size: tuple[int, int] = SIZE, seed: int = 1) -> np.ndarray:
    """Return smooth pictures, which are more like faces than noise is."""
    rng = randomness.public_rng(seed, "test", "pictures")
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, size[0] // 4, size[1] // 4)))
    fine = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False).clamp(0, 255)
    return fine.round().to(torch.uint8).numpy()


def release(known: LinearMap, pictures: np.ndarray, order: int = 0) -> torch.Tensor:
    """Return what the transform itself makes of pictures."""
    tensor = torch.from_numpy(pictures)
    if known.transform == "pixels":
        return tensor.float()
    if known.transform == "block":
        return frequency.block_dct(tensor, known.orders[order])
    return frequency.upsampled_dct(tensor, known.orders[order], known.align_corners)


def dense(linear: Map, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """Return one plane's map as a matrix, from its images of all unit pictures."""
    pixels = size[0] * size[1]
    units = torch.eye(pixels, dtype=torch.float64).view(pixels, 1, *size).expand(-1, 3, -1, -1)
    return linear.forward(units)[:, 1].flatten(1).T


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_what_the_method_sends_and_its_adjoint_and_normal_equations_belong_to_it(name: str) -> None:
    known = MAPS[name]
    linear, pictures = map_of(known, known.orders[0], SIZE), images(2)
    observed = linear.observed(release(known, pictures))
    planes = planes_of(pictures)
    torch.testing.assert_close(observed.double(), linear.forward(planes), atol=1e-3, rtol=0)

    rng = torch.Generator().manual_seed(1)
    values = torch.randn(observed.shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close((linear.adjoint(values) * planes).sum(), (values * linear.forward(planes)).sum())
    some = torch.rand(3, *values.shape[2:], generator=rng, dtype=torch.float64)
    torch.testing.assert_close(linear.adjoint(values, some), linear.adjoint(values * some))

    matrix, prior = dense(linear), Smooth(0.3, 0.1)
    weights = torch.rand(observed.shape[2:], generator=rng, dtype=torch.float64) + 0.1
    eye = torch.eye(256, dtype=torch.float64).view(256, *SIZE)
    normal = matrix.T @ (weights.flatten()[:, None] * matrix) + linear.times(eye, prior).flatten(1)
    right = torch.randn(3, *SIZE, generator=rng, dtype=torch.float64)
    solved = linear.solver(weights, prior)(right)
    torch.testing.assert_close(solved.flatten(1), torch.linalg.solve(normal, right.flatten(1).T).T)


@pytest.mark.parametrize("name", MAPS)
def test_rank_and_condition_are_those_of_the_dense_map(name: str) -> None:
    linear = map_of(MAPS[name], MAPS[name].orders[0], SIZE)
    values = np.linalg.svd(dense(linear).numpy(), compute_uv=False)
    kept = values[values > 1e-6 * values[0]]
    rank, condition = linear.spectrum()
    assert rank == len(kept)
    assert condition == pytest.approx(kept[0] / kept[-1], rel=0.06)


@pytest.mark.parametrize("name", ["pixels", "block", "all channels", "without the mean", "DuetFace"])
def test_least_squares_is_that_of_a_dense_solver_and_the_picture_itself(name: str) -> None:
    known = MAPS[name]
    linear, pictures = map_of(known, known.orders[0], SIZE), images(2)
    observed = linear.observed(release(known, pictures))
    if known.transform == "block":
        observed = linear.forward(planes_of(pictures))  # orthonormal: nothing to solve, so exactly
    found = LeastSquares(linear)(observed)
    oracle = np.linalg.lstsq(dense(linear).numpy(), observed[:, 1].double().flatten(1).T.numpy(), rcond=1e-9)[0]
    oracle = torch.from_numpy(oracle.T.copy()).view(2, *SIZE)
    torch.testing.assert_close(found[:, 1], oracle, atol=2e-2, rtol=0)
    level = planes_of(pictures).mean((2, 3), keepdim=True) if linear.hides_level else 0
    if known.transform != "block":  # there each block's mean is hidden
        torch.testing.assert_close(found + level, planes_of(pictures), atol=5e-2, rtol=0)


@pytest.mark.parametrize("name", ["pixels", "block", "without the mean", "nine"])
def test_the_best_linear_estimate_is_the_closed_form_of_a_gaussian(name: str) -> None:
    known, size = MAPS[name], (8, 8)
    linear = map_of(known, known.orders[0], size)
    rng = torch.Generator().manual_seed(2)
    components = torch.randn(4, 3, *size, generator=rng, dtype=torch.float64)
    smooth = Smooth(0.02, 0.004)
    prior = Prior(
        torch.randn(3, *size, generator=rng, dtype=torch.float64), components,
        torch.tensor([9.0, 4.0, 1.0, 0.5], dtype=torch.float64), (smooth, smooth, smooth),
    )  # fmt: skip
    matrix = torch.block_diag(*[dense(linear, size)] * 3)
    shape = linear.forward(prior.mean[None]).shape[1:]
    noise = torch.rand(shape, generator=rng, dtype=torch.float64) + 0.5
    observed = torch.randn(2, *shape, generator=rng, dtype=torch.float64)

    eye = torch.eye(64, dtype=torch.float64).view(64, *size)
    rest = torch.linalg.inv(linear.times(eye, smooth).flatten(1))
    spread = components.flatten(1).T @ torch.diag(prior.variances) @ components.flatten(1)
    covariance = torch.block_diag(rest, rest, rest) + spread
    precise = matrix.T / noise.flatten()
    mean = prior.mean.flatten()
    surprise = (observed.flatten(1) - matrix @ mean) @ precise.T
    expected = mean + torch.linalg.solve(precise @ matrix + torch.linalg.inv(covariance), surprise.T).T
    found = Posterior(linear, prior, 1.0 / noise)(observed)
    torch.testing.assert_close(found.flatten(1), expected, atol=1e-6, rtol=1e-6)


def test_a_secret_order_announces_itself() -> None:
    size = (32, 32)
    method = partialface.PartialFace()
    state = method.fit(np.zeros((1, 3, 32, 32), np.uint8), np.zeros(1, np.int64), 5)
    known = method.linear(size, state)
    pictures = images(36, size)
    released = torch.cat([release(known, pictures[i : i + 1], i) for i in range(36)])
    told = Orders(known.orders, size, known.align_corners)
    assert told.identify(released).tolist() == list(range(36))
    residuals = told.residuals(released)
    assert float(residuals.diagonal().max()) < 1e-6
    assert float(residuals[~torch.eye(36, dtype=torch.bool)].min()) > 0.1
    assert told.identify(sent(released, "8 bit")).tolist() == list(range(36))


def test_noise_is_answered_with_the_prior_and_a_clean_release_with_the_picture() -> None:
    pictures = images(60)
    prior = learn(pictures[:40], 10)
    clean = MAPS["without the mean"]
    example = release(clean, pictures[:4])
    loud = LinearMap("upsampled", clean.orders, noise=torch.full((189, 1, 1), 1e12))
    hopeless = Known(loud, SIZE, prior, example).posterior(release(clean, pictures[50:]))
    torch.testing.assert_close(hopeless, prior.mean.expand_as(hopeless), atol=0.05, rtol=0)
    known = Known(clean, SIZE, prior, example)
    exact = known.posterior(release(clean, pictures[50:]))
    level = planes_of(pictures[50:]).mean((2, 3))
    torch.testing.assert_close(known.levelled(exact, level), planes_of(pictures[50:]), atol=0.2, rtol=0)
