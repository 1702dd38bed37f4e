"""Atomic files, exact checkpoints, clear refusals."""

import numpy as np
import pytest

from fedveil import checks, runs


def test_checkpoint_round_trip_is_exact(tmp_path):
    arrays = {"tensor/w": np.array([[1.5, np.nan]], np.float32), "empty": np.zeros((0, 3), np.float32)}
    path = tmp_path / "a" / "c.npz"
    runs.write_atomic(path, runs.pack(arrays, {"round": 3}))
    loaded, meta = runs.unpack(path)
    assert meta == {"round": 3}
    for name, value in arrays.items():
        assert loaded[name].dtype == value.dtype
        np.testing.assert_array_equal(loaded[name], value)


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "r.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        runs.write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        runs.write_atomic(path, "text")
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_unreadable_checkpoint_is_named(tmp_path):
    (tmp_path / "c.npz").write_bytes(b"not a zip")
    with pytest.raises(checks.UserError, match=r"c\.npz is not a readable fedveil checkpoint"):
        runs.unpack(tmp_path / "c.npz")


def test_unknown_run_offers_the_nearest(tmp_path):
    runs.write_json(runs.Run(tmp_path, "20260101-quick-abc").config, {})
    with pytest.raises(checks.UserError, match="Did you mean '20260101-quick-abc'"):
        runs.open_run(tmp_path, "20260101-quick-abd")
    with pytest.raises(checks.UserError, match="letters, digits"):
        runs.Run(tmp_path, "../elsewhere")
