"""Atomic files, exact checkpoints, clear refusals."""

import io
import os

import numpy as np
import pytest

from fedveil import checks, readback, runs
from fedveil.commands.node import wire_of


def test_checkpoint_round_trip_is_exact(tmp_path):
    arrays = {"tensor/w": np.array([[1.5, np.nan]], np.float32), "empty": np.zeros((0, 3), np.float32)}
    path = tmp_path / "a" / "c.npz"
    runs.write_packed(path, arrays, {"round": 3}, private=True)
    assert path.stat().st_mode & 0o777 == 0o600
    with np.load(io.BytesIO(runs.pack(arrays, {"round": 3}))) as whole, np.load(path) as streamed:
        assert {name: whole[name].tobytes() for name in whole} == {name: streamed[name].tobytes() for name in streamed}
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


def test_a_checkpoint_that_fails_halfway_leaves_the_one_before(tmp_path):
    path = tmp_path / "c.npz"
    runs.write_packed(path, {"w": np.ones(3, np.float32)}, {"round": 1})
    with pytest.raises(TypeError, match="pickle"):
        runs.write_packed(path, {"w": np.ones(9000, np.float32), "x": np.array([runs])}, {"round": 2})
    assert runs.unpack(path)[1] == {"round": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


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


def test_a_result_whose_fields_do_not_stand_together_is_named(tmp_path):
    claim = {"unit": "image", "relation": "replace-one", "epsilon": 8.0, "delta": 0.0, "view": "v", "mechanism": "m",
             "guarantee": "g", "meaningful": True, "assumptions": [], "not_covered": []}  # fmt: skip
    whole = {"run_id": "r", "config_hash": "c", "model_sha256": "m", "private": True, "wall_seconds": 1.0,
             "peak_memory_mb": 1.0, "statements": [claim],
             "final": {"accuracy": 0.5, "fold_sd": None, "draw_sd": None, "eer": 0.5, "auc": 0.5, "tar": {}},
             "rounds": [{"round": 1, "accuracy": 0.5, "statements": [claim], "bytes_expected": 1}]}  # fmt: skip
    run = runs.Run(tmp_path, "r")
    runs.write_json(run.result, whole)
    assert readback.result_of(run) == whole
    bare = {**claim, "delta": None}
    for wrong in (
        {key: value for key, value in whole.items() if key != "peak_memory_mb"},
        {**whole, "statements": [bare]},
        {**whole, "rounds": [{**whole["rounds"][0], "statements": [claim, bare]}]},
    ):
        runs.write_json(run.result, wrong)
        with pytest.raises(checks.UserError, match=r"result\.json is not a readable result"):
            readback.result_of(run)
    runs.write_json(run.result, {**whole, "statements": [{**bare, "epsilon": None}]})
    assert readback.result_of(run)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_named_and_not_waited_for(tmp_path, make):
    run = runs.Run(tmp_path, "r")
    run.folder.mkdir()
    make(run.config)
    make(run.result)
    with pytest.raises(checks.UserError, match=r"config\.json is no file"):
        runs.open_run(tmp_path, "r")
    with pytest.raises(checks.UserError, match=r"result\.json is not a readable result: it is no file"):
        readback.result_of(run)
    os.mkfifo(tmp_path / "config")
    with pytest.raises(checks.UserError, match="is no file"):
        wire_of(tmp_path / "config")
