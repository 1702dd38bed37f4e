"""The command line from words to result: what is printed, written, tracked, remembered, and what is nowhere."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedveil import cli, config
from fedveil.commands import simulate
from fedveil.configuration import plugins
from fedveil.data.sources.procedural import draw_faces
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.privacy.ledger import Ledger
from fedveil.privacy.statements import Statement
from fedveil_strategies import rounds

SMALL = (
    "data.identities=9", "data.images_per_identity=4", "data.evaluation_identities=6", "data.evaluation_images=3",
    "data.pairs=20", "data.public_identities=4", "data.public_images=4", "protection.fit_steps=0",
    "protection.init=zeros", "model.width=8", "model.embedding=16", "train.clients=3", "train.rounds=2",
    "train.local.steps=2", "train.batch_size=6", "evaluation.draws=2", "evaluation.bootstrap=5", "engine=inline",
    "tracking.log_model=false",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def run_id(self) -> str:
        return self.out.split()[1]


def fedveil(*words: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(list(words))
        except SystemExit as ended:
            status = int(ended.code or 0)
    torch.set_num_threads(threads)
    return Done(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that nothing else writes to."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def first(place):
    """A tracked run in a fresh folder, its unprotected reference included."""
    pytest.importorskip("mlflow")
    return fedveil("simulate", *SMALL, "--json", "made/first.json")


@pytest.fixture(scope="module")
def second(first):
    """The same words, without tracking."""
    return fedveil("simulate", *SMALL, "tracking=none", "--json", "second.json")


def read(path):
    def refuse(word):
        raise AssertionError(f"{path} holds {word}, which is not JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


def test_the_result_has_the_keys_of_the_design(first):
    assert first.status == 0, first.err
    result = read("made/first.json")
    reference = result.pop("reference")
    assert result == read(Path("runs", first.run_id, "result.json"))
    assert list(result) == [
        "run_id", "config_hash", "rounds", "final", "collapsed", "statements", "model_sha256", "device",
        "missing_updates", "noise_source", "private", "wall_seconds", "peak_memory_mb",
    ]  # fmt: skip
    assert result["run_id"] == first.run_id
    assert [entry["round"] for entry in result["rounds"]] == [1, 2]
    for entry in result["rounds"]:
        assert {"round", "accuracy", "statements", "seconds"} <= set(entry)
    assert {"accuracy", "fold_sd", "draw_sd", "eer", "tar"} <= set(result["final"])
    assert set(result["final"]["tar"]) == {"0.1", "0.01", "0.001"}
    assert "omitted" in result["final"]["tar"]["0.001"]
    assert set(reference["final"]) == set(result["final"])
    fields = [field.name for field in dataclasses.fields(Statement)]
    assert [list(statement) for statement in result["statements"]] == [fields] * len(result["statements"])
    assert [statement["unit"] for statement in result["statements"]] == ["image", "identity"]
    image = result["statements"][0]
    assert (image["epsilon"], image["delta"], image["guarantee"], image["meaningful"]) == (1000.0, 0.0, "formal", False)
    assert (result["noise_source"], result["private"]) == ("operating system", False)
    assert len(result["model_sha256"]) == 64
    assert result["peak_memory_mb"] > 10
    assert result["missing_updates"] == {"excluded": 0, "refused": 0, "late": 0, "failed": 0}


def test_the_reference_run_is_non_private_valid_json(first):
    result = read(Path("runs", read("made/first.json")["reference"]["run_id"], "result.json"))
    (statement,) = result["statements"]
    assert (statement["epsilon"], statement["delta"], statement["guarantee"]) == (None, None, "none")
    assert (result["noise_source"], result["private"]) == ("none", False)


def test_what_is_printed_fits_80_columns_and_says_the_weak_budget_first(first):
    lines = first.out.splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    words = " ".join(first.out.split())
    assert "no meaningful image protection at this setting" in words
    assert words.index("no meaningful image protection") < words.index("equal error rate")
    assert "protection.total_epsilon=8 gives one" in words
    assert "no protection" in words
    assert "3 data sets drew fresh noise" in words
    assert "rm -r .fedveil/vault" in words
    after = lines[lines.index("next") + 1 :]
    assert len(after) == 3
    assert all(line.strip().startswith("fedveil ") for line in after)
    assert f"model sha256 {read('made/first.json')['model_sha256']}" in words


def test_tracking_off_or_broken_changes_nothing_and_copies_are_reused(first, second):
    broken = fedveil("simulate", *SMALL, "tracking.uri=sqlite:////dev/null/all.db", "evaluation.reference=false")
    assert (second.status, broken.status) == (0, 0)
    assert "tracking is off" in broken.err
    wanted = read("made/first.json")
    for run in (second, broken):
        found = read(Path("runs", run.run_id, "result.json"))
        assert found["model_sha256"] == wanted["model_sha256"]
        assert found["final"] == wanted["final"]
        assert "3 data sets reused their stored noisy copies" in " ".join(run.out.split())
    assert read("second.json")["reference"] == wanted["reference"]  # found, not trained again


def test_the_owners_ledger_has_one_row_per_data_set_and_run(first, second):
    ledger = Ledger(Path(".fedveil/vault/ledger.sqlite"))
    data = Federation(config.from_json(Path("runs", first.run_id, "config.json").read_text())).data_id
    owners = [f"{data}/c000{number}" for number in (1, 2, 3)]
    assert sorted((row.subject, row.status) for row in ledger.rows(first.run_id)) == [(o, "spent") for o in owners]
    assert sorted((row.subject, row.status) for row in ledger.rows(second.run_id)) == [(o, "reused") for o in owners]
    (row,) = Ledger(Path("runs", first.run_id, "ledger.sqlite")).rows()
    assert (row.subject, row.status, row.event) == ("run", "spent", ledger.rows(first.run_id)[0].event)


def test_the_vault_is_the_owners_alone_and_nothing_of_it_is_in_the_run_store(first, second):
    vault = Path(".fedveil/vault")
    assert vault.stat().st_mode & 0o777 == 0o700
    secrets = [(vault / "owner.key").read_bytes()]
    heads = sorted(vault.glob("heads/*/*/*.npz"))
    assert {path.parent.name for path in heads} == {"c0001", "c0002", "c0003"}
    for path in heads:
        with np.load(path) as file:
            secrets += [row.tobytes()[:24] for row in file["a/centres"]]
    assert len(secrets) > 9
    seen = 0
    for path in Path("runs").rglob("*"):
        if path.is_file():
            seen += 1
            contents = [path.read_bytes()]
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    contents += [archive.read(name) for name in archive.namelist()]
            assert not any(secret in content for secret in secrets for content in contents), path
    assert seen > 10


@pytest.mark.filterwarnings("ignore")  # MLflow's own, when its store is opened
def test_the_run_store_names_no_client_and_mlflow_has_every_round(first):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{Path('runs/mlflow.db').resolve()}")
    (run,) = client.search_runs(["1"], f"tags.`fedveil.run_id` = '{first.run_id}'")
    assert run.info.status == "FINISHED"
    result = read("made/first.json")
    history = client.get_metric_history(run.info.run_id, "accuracy")
    told = [(e["round"], e["accuracy"]) for e in result["rounds"]]
    told.append((result["rounds"][-1]["round"] + 1, result["final"]["accuracy"]))
    assert [(entry.step, entry.value) for entry in history] == [(step, pytest.approx(value)) for step, value in told]
    assert run.data.metrics["accuracy"] == pytest.approx(result["final"]["accuracy"])  # what a table shows
    assert run.data.metrics["epsilon_image"] == 1000
    assert [point.step for point in client.get_metric_history(run.info.run_id, "epsilon_image")] == [0]
    assert run.data.tags["epsilon_image.delta"] == "0"
    assert run.data.tags["epsilon_image.relation"] == "replace-one"
    assert run.info.run_name == "dctdp eps 1000 (image) seed 1"
    assert "Final accuracy" in run.data.tags["mlflow.note.content"]
    assert run.data.params["protection.total_epsilon"] == "1000.0"
    assert run.data.tags["fedveil.privacy"] == "NOT PRIVATE"
    stored = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"result.json", "config.json", "ledger.sqlite", "roc.png", "budget_shape.png", "faces.png"} <= stored
    text = (Path("runs", first.run_id, "result.json").read_text() + str(run.data.to_dictionary())).replace("c0001", "!")
    assert "!" not in text


def test_a_test_seed_says_not_private_everywhere(place):
    run = fedveil("simulate", *SMALL, "privacy.test_seed=5", "tracking=none", "evaluation.reference=false")
    assert run.status == 0, run.err
    result = read(Path("runs", run.run_id, "result.json"))
    assert (result["private"], result["noise_source"]) == (False, "test seed")
    shown = [line for line in run.out.splitlines() if line]
    assert any(line.startswith("NOT PRIVATE") for line in shown)
    rows = Ledger(Path(".fedveil/vault/ledger.sqlite")).rows(run.run_id)
    assert rows
    assert all("NOT PRIVATE" in row.note for row in rows)
    assert "NOT PRIVATE" in Ledger(Path("runs", run.run_id, "ledger.sqlite")).rows()[0].note
    again = fedveil("simulate", *SMALL, "privacy.test_seed=5", "tracking=none", "evaluation.reference=false")
    assert read(Path("runs", again.run_id, "result.json"))["model_sha256"] == result["model_sha256"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["simulate", "nonsense"], "'nonsense'"),
        (["simulate", "train.ronds=3"], "Did you mean 'rounds'"),
        (["simulate", "train.rounds=many"], "train.rounds='many'"),
        (["simulate", "protection=dctpd"], "Did you mean 'dctdp'"),
        (["simulate", "train.clients=500"], "train.clients=500"),
        (["simulate", "--resume", "no-such-run"], "no-such-run"),
        (["simulate", "data=folder", "data.root=missing", "data.evaluation=procedural"], "missing"),
        (["simulate", "train.warm_start=nothing"], "nothing"),
        (["protect", "missing.png"], "missing.png"),
        (["data", "inspect", "data=folder", "data.root=missing", "data.evaluation=procedural"], "missing"),
        (["ui", "runs.root=elsewhere"], "elsewhere"),
        (["bundle", "."], "use a new folder"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(place, words, named):
    (place / "something").write_text("here\n")
    extra = ["tracking=none", "engine=inline"] if words[0] == "simulate" and "--resume" not in words else []
    extra += ["protection=none"] if "train.warm_start=nothing" in words else []
    done = fedveil(*words, *extra)
    assert done.status == 2
    assert named in done.err
    assert done.err.count("\n") == 1
    assert done.err.startswith("fedveil: ")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", ["", "simulate", "ui", "methods", "protect", "data", "bundle"])
def test_help_explains_and_shows_examples(command):
    done = fedveil(*([command] if command else []), "--help")
    assert done.status == 0
    assert "usage: fedveil" in done.out
    if command:
        assert "example" in done.out
        assert f"fedveil {command}" in done.out


def test_methods_lists_every_method_with_a_line(place):
    done = fedveil("methods")
    lines = done.out.splitlines()
    for group in plugins.GROUPS:
        assert f"{group}=" in lines
    for name in ("dctdp", "dct", "id3", "tiny_ir", "arcface", "procedural", "lfw", "fedavgm"):
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 3
    assert max(map(len, lines)) <= 80


def test_data_inspect_counts_people_and_images(place):
    done = fedveil("data", "inspect", *[word for word in SMALL if word.startswith("data.")])
    assert done.status == 0, done.err
    assert "9" in done.out
    assert "36" in done.out


def test_protect_draws_a_picture_of_ones_own_images(place):
    faces = draw_faces(3, 0, 2, 1, 48).images()
    (place / "faces").mkdir()
    for number, face in enumerate(faces):
        Image.fromarray(face.transpose(1, 2, 0)).save(place / "faces" / f"{number}.png")
    quick = [word for word in SMALL if word.startswith(("data.", "protection."))]
    done = fedveil("protect", "faces", "protection=dctdp", *quick, "--out", "made.png")
    assert done.status == 0, done.err
    assert "2 images at 32x32 through dctdp" in done.out
    said, _, there = " ".join(done.out.split()).partition("A run draws secret noise")
    assert "epsilon =" not in said
    assert "image: no formal guarantee" in said
    assert "NOT PRIVATE, the noise of this picture is drawn from the public seed" in said
    assert "epsilon = 1000 at delta = 0 (replace-one)" in there
    assert max(map(len, done.out.splitlines())) <= 80
    again = fedveil("protect", "faces", "protection=dctdp", *quick, "--out", "again.png")
    assert again.status == 0
    assert (place / "again.png").read_bytes() == (place / "made.png").read_bytes()
    with Image.open(place / "made.png") as picture:
        assert min(picture.size) > 100
    one = fedveil("protect", "faces/0.png", "protection=none", *[w for w in quick if w.startswith("data.")])
    assert one.status == 0, one.err
    assert (place / "protected.png").is_file()


def test_bundle_writes_a_thin_app_folder(place):
    import tomllib

    done = fedveil("bundle", "app", *SMALL)
    assert done.status == 0, done.err
    assert [path.name for path in (place / "app").iterdir()] == ["pyproject.toml"]
    app = tomllib.loads((place / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": "fedveil_strategies.app:app", "clientapp": "fedveil_clients.app:app"}
    assert config.digest(instruction.completed(app["config"]["config"]).settings) == config.digest(config.load(SMALL))
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_bundle_holds_no_place_of_this_machine(place):
    """Every node is sent it. What stays here is printed, for the coordinator's own environment."""
    words = ["data=folder", f"data.root={place / 'faces'}", "data.evaluation=procedural", "runs.root=my-runs",
             "vault.root=my-vault", "tracking.uri=http://my-server", "tracking.experiment=my-study",
             "train.warm_start=my-checkpoint"]  # fmt: skip
    done = fedveil("bundle", "app", *words)
    assert done.status == 0, done.err
    text = (place / "app" / "pyproject.toml").read_text()
    assert str(place) not in text
    assert "my-" not in text
    assert "FEDVEIL_COORDINATOR=" in done.out
    printed = " ".join(done.out.split())
    for word in (*words[3:4], *words[5:]):
        assert word in printed
    assert words[1] not in printed  # drawn faces are evaluated, so a coordinator reads no folder
    assert "it needs no faces" in printed


CLIENT_LEVEL = ["study=quick", "tracking=none", "protection=none", "train.clients=12", "train.cohort.rate=0.5",
                "privacy.client.epsilon=8", "privacy.client.delta=1e-5"]  # fmt: skip


def test_a_client_level_run_claims_what_its_ledger_holds_and_hides_times(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["simulate", *CLIENT_LEVEL, "--json", "out.json", "--plain"]) == 0
    result = json.loads(Path("out.json").read_text())
    client = result["statements"][0]
    assert (client["unit"], client["relation"], client["delta"]) == ("client", "zero-out", 1e-5)
    assert 7 < client["epsilon"] <= 8
    assert result["private"]
    grown = [entry["statements"][0]["epsilon"] for entry in result["rounds"]]
    assert grown == sorted(grown)
    assert grown[-1] <= 8
    assert all("seconds" not in entry for entry in result["rounds"])
    assert "missing_updates" not in result
    ledger = Ledger(Path("runs", result["run_id"], "ledger.sqlite"))
    assert len({row.at for row in ledger.rows() if row.event != ledger.rows()[0].event}) == 1
    owner = Ledger(Path(".fedveil/vault/ledger.sqlite")).rows()
    assert {row.status for row in owner} == {"spent", "reserved"}


def test_a_budget_spent_at_once_stops_and_still_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*CLIENT_LEVEL, "privacy.client.noise_multiplier=0.05"]
    assert cli.main(["simulate", *words, "--json", "out.json", "--plain"]) == 0
    assert "the budget is spent after round 0 of 3" in capsys.readouterr().out
    assert json.loads(Path("out.json").read_text())["rounds"] == []


def test_a_warm_start_nobody_declared_public_voids_the_claim(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["study=quick", "tracking=none", "train.rounds=1"]
    assert cli.main(["simulate", *quick, "protection=none", "--plain", "--json", "a.json"]) == 0
    source = json.loads(Path("a.json").read_text())["run_id"]
    warm = [*quick, "protection.total_epsilon=8", f"train.warm_start={source}"]
    assert cli.main(["simulate", *warm, "--plain", "--json", "b.json"]) == 0
    assert not json.loads(Path("b.json").read_text())["private"]
    declared = [*warm, "train.warm_start_is_public=true", "seed=2"]
    assert cli.main(["simulate", *declared, "--plain", "--json", "c.json"]) == 0
    assert json.loads(Path("c.json").read_text())["private"]


def test_another_vault_is_refused_on_resume(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["study=quick", "tracking=none", "train.rounds=2", "--plain"]
    assert cli.main(["simulate", *words, "--json", "a.json"]) == 0
    run_id = json.loads(Path("a.json").read_text())["run_id"]
    Path("runs", run_id, "result.json").unlink()
    shutil.rmtree(".fedveil/vault")
    assert cli.main(["simulate", "--resume", run_id]) == 2
    assert "another vault" in capsys.readouterr().err
    assert cli.main(["simulate", "--resume", run_id, "vault.root=elsewhere"]) == 2


@pytest.mark.parametrize(
    "words", [["train.clients=1000"], ["data=folder", "data.root=nowhere", "data.evaluation=procedural"],
              ["policy.floor=[none]"]]
)  # fmt: skip
def test_a_run_that_cannot_begin_leaves_no_run(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["simulate", "tracking=none", "engine=inline", *words]) == 2
    assert not Path("runs").exists()


def test_no_unprotected_reference_on_private_faces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulate, "simulate", lambda *_: pytest.fail("trained on clean private faces"))
    private = dataclasses.replace(Federation.of(["study=quick"]).split, public_benchmark=False)
    monkeypatch.setattr(Federation, "split", private)
    assert simulate.reference(Federation.of(["study=quick", "evaluation.reference=true"]), "quiet") is None


def test_a_client_level_run_never_asks_the_public_seed_for_its_cohorts_or_its_mean(tmp_path, monkeypatch):
    """Dropping `draw` or `combine` on the way to the loop would fall back to public coins or to a sum without noise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rounds, "public", lambda plan: pytest.fail("coins from the public seed"))
    monkeypatch.setattr(rounds, "plain", lambda plan: pytest.fail("a mean without noise"))
    assert cli.main(["simulate", *CLIENT_LEVEL, "--plain"]) == 0


def test_a_run_that_guesses_says_so_and_one_that_diverges_names_its_learning_rates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ["study=quick", "tracking=none", "engine=inline", "train.rounds=1", "--plain"]
    noisy = ["protection.total_epsilon=0.01", "evaluation.draws=20"]
    assert cli.main(["simulate", *quick, *noisy, "--json", "a.json"]) == 0
    assert json.loads(Path("a.json").read_text())["collapsed"] is True
    assert "This run collapsed" in capsys.readouterr().out
    assert cli.main(["simulate", *quick, "protection=none", "--json", "b.json"]) == 0
    assert json.loads(Path("b.json").read_text())["collapsed"] is False
    assert "collapsed" not in capsys.readouterr().out
    assert cli.main(["simulate", *quick, "protection=none", "train.lr=1e30", "train.head_lr=1e30"]) == 2
    assert "Lower train.lr=1e+30 or train.head_lr=1e+30" in capsys.readouterr().err
    warm = ["train.warm_start=public", "train.warm_lr=1e30"]
    assert cli.main(["simulate", *quick, "protection=none", *warm]) == 2
    assert "Lower train.warm_lr=1e+30" in capsys.readouterr().err
