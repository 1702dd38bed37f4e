"""`fedveil export`: files that other programs read, equal to what torch computes; nothing half, nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedveil import checks, cli, config, readback, runs
from fedveil.commands import export
from fedveil.configuration import plugins
from fedveil.federation import finished
from fedveil.federation.tensors import get_tensors
from fedveil.models import recogniser
from fedveil.storage import safetensors

TINY = [
    "protection=none", "train.rounds=1", "train.clients=2", "data.identities=4", "data.pairs=8",
    "data.evaluation_identities=4", "data.public_identities=4", "train.local.steps=1", "tracking=none",
    "evaluation.draws=1", "evaluation.bootstrap=0", "evaluation.reference=false", "engine=inline",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    root = tmp_path_factory.mktemp("runs")
    words = [*TINY, f"runs.root={root}", f"vault.root={root / 'vault'}"]
    assert cli.main(["simulate", *words, "--json", str(root / "out.json")]) == 0
    return runs.open_run(root, json.loads((root / "out.json").read_text())["run_id"])


def exported(run: runs.Run, *words: str) -> int:
    return cli.main(["export", run.run_id, f"runs.root={run.root}", *words])


def test_tensors_and_what_they_are_come_back(run: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.safetensors"
    assert exported(run, "--safetensors", str(out)) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 200
    found, meta = safetensors.unpack(out)
    own = get_tensors(finished.model_of(config.load([f"runs.root={run.root}"]), run.run_id).backbone)
    assert {name.removeprefix("backbone.") for name in found} == set(own)
    assert all(np.array_equal(found[f"backbone.{name}"], own[name]) for name in own)
    result = readback.result_of(run)
    assert meta["model_sha256"] == result["model_sha256"]
    assert json.loads(meta["statements"]) == result["statements"]
    library = pytest.importorskip("safetensors.numpy")
    assert all(np.array_equal(library.load_file(out)[name], value) for name, value in found.items())


def test_nothing_is_overwritten_and_nothing_half_is_written(
    run: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, fresh = tmp_path / "there.safetensors", tmp_path / "fresh.onnx"
    there.write_bytes(b"mine")
    for words, said in [
        (["--safetensors", str(there)], "is there already"),
        (["--safetensors", str(tmp_path / "no" / "a.safetensors")], "there is no folder"),
        ([], "Say what to write"),
    ]:
        assert exported(run, *words) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setattr(recogniser, "_NEEDED", ("a_module_that_nobody_has",))
    assert exported(run, "--onnx", str(fresh), "--safetensors", str(tmp_path / "b.safetensors")) == 2
    assert "pip install 'fedveil[export]'" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["there.safetensors"]
    assert there.read_bytes() == b"mine"


def fitted(name: str) -> finished.Model:
    """Return a model of this protection with random tensors."""
    from fedveil.federation.federation import Federation

    words = ["study=quick", "data.size=32", f"protection={name}", "model.width=8", "model.embedding=16"]
    if name in ("dctdp", "duetface"):
        words += ["protection.fit_steps=0", *(["protection.init=zeros"] if name == "dctdp" else [])]
    federation = Federation.of(words)
    public = federation.split.public
    state = federation.protection.fit(public.images(), public.labels, 1)
    return finished.Model(federation, state, federation.backbone())


@pytest.mark.parametrize("name", ["none", "dct", "dctdp", "duetface", "partialface"])
def test_an_onnx_model_computes_what_torch_does_for_any_batch(name: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = fitted(name)
    data, apart = export.onnx(model)  # traced with two, compared on three
    assert apart is not None
    assert apart < 1e-5
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    one = export.drawn(model)[:1]
    (found,) = session.run([recogniser.OUTPUT], {recogniser.INPUT: one.numpy()})
    with torch.no_grad():
        embedding = model.backbone(model.federation.protection.features(one, model.state))
    assert np.allclose(found, torch.nn.functional.normalize(embedding).numpy(), atol=1e-5)
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


def test_a_network_that_cannot_be_exported_is_a_message() -> None:
    pytest.importorskip("onnxscript")

    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)

    made = recogniser.Recogniser(plugins.build("protection", "none", {}), {}, Branching())
    with pytest.raises(checks.UserError, match=r"does not export this recogniser to ONNX.*--safetensors"):
        recogniser.to_onnx(made, torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "u1", "?"])
def test_every_type_comes_back(dtype: str, tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6).reshape(2, 3).astype(dtype),
        "empty": np.zeros((0, 4), dtype),
        "one": np.ones((), dtype),
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.pack(arrays, {"k": "v"}))
    found, meta = safetensors.unpack(path)
    assert meta == {"k": "v"}
    assert all(
        np.array_equal(found[name], value) and found[name].dtype == value.dtype for name, value in arrays.items()
    )


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 7, (2**40).to_bytes(8, "little") + b"{}", b"\2\0\0\0\0\0\0\0[]",
        b"\2\0\0\0\0\0\0\0{x",
    ],
)  # fmt: skip
def test_damaged_bytes_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(checks.UserError, match=r"a\.safetensors is not a readable safetensors file"):
        safetensors.unpack(path)


@pytest.mark.parametrize(
    "said",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "S9", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": 3, "data_offsets": [0, 8]},
        "nothing",
    ],
)
def test_a_header_that_lies_is_refused(said: object, tmp_path: Path) -> None:
    text = json.dumps({"a": said}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
    with pytest.raises(checks.UserError, match="is not a readable safetensors file"):
        safetensors.unpack(path)
