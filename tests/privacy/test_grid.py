"""The grid: what is cut does not grow, sums are exact, and noise on it costs what noise in real arithmetic does."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special, stats

from fedveil.checks import UserError
from fedveil.privacy import clipping, exact, gaussian, grid, noise
from fedveil.privacy.grid import Grid
from fedveil.privacy.noise import Noise
from fedveil.privacy.settling import Law
from fedveil.randomness import SecretStream, test_key

LAWS: tuple[Law, ...] = ("gaussian", "laplace")
SCALES = [1e-200, 3e-7, 0.5, math.nextafter(0.5, 0), math.nextafter(0.5, 1), 1.0, math.pi, 4096.0, 1e200]


def stream(*labels: str | int) -> SecretStream:
    return SecretStream(test_key(13, *labels))


def values(count: int, seed: int = 1, size: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=count) * size)


@pytest.mark.parametrize("scale", SCALES)
def test_the_step_is_a_power_of_two_and_the_noise_never_below_its_scale(scale: float) -> None:
    one = Grid(scale)
    step, steps = Fraction(float(one.step)), int(one.steps)
    assert math.frexp(float(one.step))[0] == 0.5
    assert 2**29 <= Fraction(scale) / step < 2**30
    assert Fraction(scale) * (1 + Fraction(1, 2**41)) <= steps * step <= Fraction(scale) * (1 + Fraction(1, 2**28))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 1e-300])
def test_a_bad_scale_is_refused(scale: float) -> None:
    with pytest.raises(UserError, match="noise scale"):
        Noise("grid", "laplace", torch.tensor([1.0, scale], dtype=torch.float64))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"privacy\.noise"):
        Noise("discrete", "laplace", 1.0)  # type: ignore[arg-type]


def check_nothing_grows() -> None:
    """Not a coordinate, hence no weighted norm: in exact fractions, with values just below and just above steps."""
    for scale in (1e-6, 2.0**29, 1e9):
        one = Grid(scale)
        step = float(one.step)
        whole = torch.arange(-50.0, 51.0, dtype=torch.float64) * step
        near = [whole, torch.nextafter(whole, whole + 1), torch.nextafter(whole, whole - 1), whole + step / 2]
        for given in (*near, values(500, size=step), values(500, size=scale)):
            cut = one.cut(given)
            assert bool((cut.abs() <= given.abs()).all())
            assert bool(((given - cut).abs() < step).all())
            assert torch.equal(cut, one.cut(cut))
            quotient = [Fraction(value) / Fraction(step) for value in cut.tolist()]
            assert all(value.denominator == 1 for value in quotient)


def test_nothing_grows() -> None:
    check_nothing_grows()


def test_rounding_to_nearest_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grid, "cut", lambda self, values: (values / self.step).round() * self.step)
    with pytest.raises(AssertionError):
        check_nothing_grows()


@pytest.mark.parametrize("order", [1, 2])
def test_a_clipped_vector_stays_in_its_ball(order: int) -> None:
    weights = values(400, 2).abs() + 0.01
    for radius, scale in ((1.0, 2.0**25), (1.0, 1e-9), (30.0, 2.0**31)):
        inside = clipping.clip_norm(values(400, 3, 100.0)[None], weights, radius, order)
        cut = Grid(scale / weights).cut(inside)
        assert float(clipping.weighted_norms(cut, weights, order)) <= radius
        assert float(clipping.weighted_norms(cut, weights, order)) <= float(
            clipping.weighted_norms(inside, weights, order)
        )


def test_sums_are_exact_in_any_order() -> None:
    one = Grid(0.01)
    addends = [one.cut(values(50, seed, 10.0 ** (seed % 7 - 3))) for seed in range(60)]
    orders = (addends, addends[::-1], addends[1::2] + addends[::2])
    sums = [sum(order, torch.zeros(50, dtype=torch.float64)) for order in orders]
    expected = [float(sum(map(Fraction, column))) for column in torch.stack(addends).T.tolist()]
    assert all(total.tolist() == expected for total in sums)


def test_a_sum_that_may_not_be_exact_is_refused_by_public_constants() -> None:
    Noise("grid", "gaussian", 1.0).check_sum(10**6, 1.0)
    with pytest.raises(UserError, match=r"53 bits.*noise_multiplier"):
        Noise("grid", "gaussian", 1e-4).check_sum(10**6, 1.0)
    Noise("real", "gaussian", 1e-4).check_sum(10**6, 1.0)


@pytest.mark.parametrize("law", LAWS)
def test_noise_is_on_the_grid_of_its_scale_and_does_not_depend_on_the_values(law: Law) -> None:
    scales = torch.tensor([0.001, 1.0, 5000.0], dtype=torch.float64)[:, None].expand(3, 20_000)
    drawn = Noise("grid", law, scales)
    assert drawn.grid is not None
    nothing, something = torch.zeros(3, 20_000, dtype=torch.float64), drawn.addend(values(60_000).view(3, -1) * scales)
    only, both = drawn.added(stream("add"), nothing), drawn.added(stream("add"), something)
    assert torch.equal(both - something, only), "sums of multiples are exact"
    steps = only / drawn.grid.step
    assert torch.equal(steps, steps.round())
    assert len(steps.unique()) > 0.999 * steps.numel(), "not few values"
    for row in (only / scales).numpy():
        assert stats.kstest(row, "norm" if law == "gaussian" else "laplace").pvalue > 1e-6
    assert torch.equal(only, Noise("grid", law, scales).added(stream("add"), nothing)), "a key repeats"
    scalar = Noise("grid", law, 1.0).added(stream("one"), nothing[0])
    assert torch.equal(scalar, Noise("grid", law, torch.ones(20_000)).added(stream("one"), nothing[0]))


@pytest.mark.parametrize("law", LAWS)
def test_values_off_the_grid_are_refused(law: Law) -> None:
    with pytest.raises(ValueError, match="addend"):
        Noise("grid", law, 1.0).added(stream("off"), torch.tensor([1 / 3], dtype=torch.float64))


def test_a_small_negative_value_leaves_no_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """-0.0 is another number to whoever reads its bits."""
    monkeypatch.setattr(exact, "rounded", lambda law, stream, steps: np.zeros(len(steps), np.int64))
    drawn = Noise("grid", "gaussian", 1.0)
    released = drawn.added(stream("sign"), drawn.addend(torch.tensor([-1e-30, 1e-30], dtype=torch.float64)))
    assert not bool(torch.signbit(released).any())


@pytest.mark.parametrize("law", LAWS)
def test_rounding_before_or_after_the_noise_is_the_same_in_law(law: Law) -> None:
    """round(v + N) for a whole v against v + round(N): two samples, and real noise drawn by another road."""
    steps, count, rng = 3, 200_000, np.random.default_rng(5)
    continuous = steps * (rng.normal(size=count) if law == "gaussian" else rng.laplace(size=count))
    after = np.rint(7 + continuous)
    before = 7 + exact.rounded(law, stream("law", law), np.full(count, steps))
    ends = np.arange(-3, 18)
    table = [np.bincount(np.searchsorted(ends, np.clip(side, -3, 17)), minlength=21) for side in (after, before)]
    assert stats.chi2_contingency(table).pvalue > 1e-6


def masses(law: Law, steps: int, centre: int, reach: int) -> NDArray[np.float64]:
    """Return P[centre + round(steps * Z) = n] for n = -reach..reach."""
    ends = (np.arange(-reach, reach + 2) - 0.5 - centre) / steps
    size = np.abs(ends)
    tail = special.ndtr(-size) if law == "gaussian" else 0.5 * np.exp(-size)
    mass = np.abs(np.diff(tail))
    straddles = (ends[:-1] < 0) & (ends[1:] > 0)
    mass[straddles] = 1 - tail[:-1][straddles] - tail[1:][straddles]
    return mass


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_the_loss_on_the_grid_is_at_most_that_of_real_noise(steps: int) -> None:
    """Laplace: every ratio is below e^epsilon. Gaussian: delta at every epsilon is below the continuous one's."""
    for distance in (1, 3, 2 * steps):
        one, other = (masses("laplace", steps, centre, 30 * steps) for centre in (0, distance))
        ratio = np.abs(np.log(one / other)).max()
        assert ratio <= distance / steps * (1 + 1e-9)
        assert ratio > distance / steps * 0.999, "and the bound is reached"
        one, other = (masses("gaussian", steps, centre, 12 * steps + distance) for centre in (0, distance))
        for epsilon in (0.01, 0.5, 2.0):
            delta = np.maximum(one - np.exp(epsilon) * other, 0).sum()
            assert delta <= gaussian.delta_of(epsilon, distance / steps) + 1e-13


def test_too_little_noise_for_the_stated_loss_is_seen() -> None:
    """The same arithmetic with steps rounded down, or the sum moved by a step more than stated."""
    one, other = (masses("laplace", 7, centre, 100) for centre in (0, 3))
    assert np.abs(np.log(one / other)).max() > 3 / 8
    one, other = (masses("laplace", 8, centre, 100) for centre in (0, 4))
    assert np.abs(np.log(one / other)).max() > 3 / 8


def test_sums_that_are_cut_as_a_whole_part_by_at_most_the_slack() -> None:
    one = Grid(2.0**29)  # a step of 1
    dimension, clip = 300, 4.0
    bound = grid.sensitivity_with_slack(clip, dimension, 1.0)
    assert clip + math.sqrt(dimension) <= bound <= (clip + math.sqrt(dimension)) * (1 + 1e-9)
    worst = 0.0
    for seed in range(200):
        total = values(dimension, seed, 5.0)
        moved = torch.full((dimension,), clip / math.sqrt(dimension), dtype=torch.float64)
        if seed % 2:  # every coordinate just below a step, and what is left out lifts it over
            total = total.round() - moved / 2
        worst = max(worst, float(torch.linalg.vector_norm(one.cut(total + moved) - one.cut(total))))
    assert clip < worst <= bound, "without the slack the bound would be wrong"
    sigma = grid.scale_of_whole_sum(0.7, clip, dimension, error=0.1)
    needed = 0.7 * grid.sensitivity_with_slack(clip, dimension, float(Grid(sigma).step), 0.1)
    assert needed <= sigma <= needed * (1 + 1e-6)
    with pytest.raises(UserError, match="too coarse"):
        grid.scale_of_whole_sum(1e6, clip, 10**9)


def test_a_float32_sum_is_within_its_bound_and_a_smaller_one_would_not_hold() -> None:
    rng = np.random.default_rng(8)
    addends = rng.normal(size=(4000, 30)) + 3
    addends = (addends / np.linalg.norm(addends, axis=1, keepdims=True)).astype(np.float32)
    total = np.zeros(30, np.float32)
    for addend in addends:
        total += addend
    error = float(np.linalg.norm(total.astype(np.float64) - addends.astype(np.float64).sum(0)))
    bound = grid.float32_sum_error(1.0 + 1e-6, 4000)
    assert 1e-4 * bound < error <= bound
    assert grid.float32_sum_error(1.0, 1) == 0.0
    with pytest.raises(UserError, match="float64"):
        grid.float32_sum_error(1.0, 2**24)


def test_versions_differ_by_kind() -> None:
    assert noise.version("real") == noise.VERSION
    assert noise.version("grid") != noise.version("real")
