"""A secret in an address stays in the process that was told it; everything else sees that there was one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedveil import checks, cli, config
from fedveil.configuration.schema import Tracking
from fedveil.storage import addresses
from fedveil.tracking import stores

WORD = "s3cretword"

REDACTED = {
    f"http://user:{WORD}@host:5000/": "http://***@host:5000/",
    f"http://{WORD}@host": "http://***@host",
    f"HTTPS://user:{WORD}@host/a/b?page=2#top": "HTTPS://***@host/a/b?page=2#top",
    f"http://user:a@{WORD}@host/": "http://***@host/",
    f"http://user:a/{WORD}@host/": "http://***@host/",
    f"http://user:a b{WORD}'@host/": "http://***@host/",
    f"postgresql+psycopg2://me:{WORD}@db/x?sslmode=require": "postgresql+psycopg2://***@db/x?sslmode=require",
    f"https://host/?token={WORD}&page=2": "https://host/?token=***&page=2",
    f"https://host/api?page=2&api_key={WORD}": "https://host/api?page=2&api_key=***",
    f"https://host/x?X-Amz-Signature={WORD}&se=1": "https://host/x?X-Amz-Signature=***&se=1",
    f"https://host/x?sv=1&sig={WORD}": "https://host/x?sv=1&sig=***",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3D{WORD}": "mssql+pyodbc:///?odbc_connect=***",
    f"https://host/#access_token={WORD}": "https://host/#access_token=***",
    f"https://host/?next=http%3A%2F%2Fme%3A{WORD}%40other%2F": "https://host/?next=***",
    f"s3://key:{WORD}@bucket/faces": "s3://***@bucket/faces",
    f"a://b/,http://me:{WORD}@c/": "a://b/,http://***@c/",
    f"file:///faces?Password={WORD}": "file:///faces?Password=***",
}
PLAIN = (
    "runs", "sqlite:////home/me@work/mlflow.db", "http://host:5000/me@work", "http://[::1]:5000/a@b", "file:///a/b@c",
    "https://host/?author=me&page=3", "C://a@b/c"[2:], "user@host", "faces #2", "", "databricks://profile",
    "http://host/?token=",
)  # fmt: skip


@pytest.mark.parametrize("address", REDACTED)
def test_a_secret_is_hidden_and_the_whole_address_remembered(address: str) -> None:
    shown = addresses.without_secrets(address)
    assert shown == REDACTED[address]
    assert addresses.without_secrets(shown) == shown
    assert addresses.whole(shown, "tracking.uri") == address
    assert WORD not in addresses.redacted(f"cannot reach {address}: refused")


@pytest.mark.parametrize("address", PLAIN)
def test_an_address_without_a_secret_stays_as_it_is(address: str) -> None:
    assert addresses.without_secrets(address) == address
    assert addresses.redacted(f"no such folder: {address}") == f"no such folder: {address}"
    assert addresses.whole(address, "tracking.uri") == address
    assert addresses.VARIABLE not in os.environ


SLIPS = {
    f"http:/user:{WORD}@host": "http:/***@host", f"user:{WORD}@host/x": "user:***@host/x",
    f"//user:{WORD}@host": "//***@host", f"s3:/key:{WORD}@bucket": "s3:/***@bucket",
    f"http//user:{WORD}@host": "***@host", f"http:user:a/{WORD}?@host": "http:***@host",
    f"//{WORD}@host": "//***@host",
}  # fmt: skip


@pytest.mark.parametrize("address", SLIPS)
@pytest.mark.parametrize("command", ["simulate", "sweep seed=1,2", "bundle app", "ui", "variable"])
def test_a_slip_in_the_scheme_shows_nobody_the_password(
    address: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if command == "variable":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        store = stores.chosen(Tracking("mlflow"), Path("runs"))
        assert store.shown == SLIPS[address]
        assert "scheme://" in store.problem
        assert WORD not in store.problem + store.said
        return
    assert cli.main([*command.split(), f"tracking.uri={address}"]) == 2
    shown = capsys.readouterr()
    assert SLIPS[address] in shown.err
    assert "scheme://" in shown.err
    assert WORD not in shown.out + shown.err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("given", ["./runs@home", "databricks", "databricks://me", "file:///a/b@c", "/srv/me@work"])
def test_a_store_without_a_secret_is_taken(given: str) -> None:
    assert config.load([f"tracking.uri={given}"]).tracking.uri == given


@pytest.mark.parametrize("secret", ["hospital", "mlflow", "runs"])
def test_a_password_rewrites_no_setting_path_or_name(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{secret}:{secret}@127.0.0.1:9/")
    words = {"vault.root": f"/z/{secret}/vault", "runs.root": secret, "tracking.experiment": secret,
             "tracking.uri": f"http://{secret}:{secret}@127.0.0.1:9/"}  # fmt: skip
    made = config.load([f"{key}={value}" for key, value in words.items()])
    assert (made.vault.root, made.runs.root, made.tracking.experiment) == (f"/z/{secret}/vault", secret, secret)
    assert (made.tracking.name, made.tracking.uri) == ("mlflow", "http://***@127.0.0.1:9/")
    for text in (f"run x in /z/{secret}/runs/", f"client {secret}-1", f"{secret}.png", f"tracking.{secret}=1"):
        assert addresses.redacted(text) == text
    assert addresses.redacted("tracking=mlflow in runs/") == "tracking=mlflow in runs/"


def test_every_string_of_a_configuration_passes_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = f"http://user:{WORD}@127.0.0.1:9/"
    keys = ["tracking.uri", "tracking.experiment", "runs.root", "vault.root", "data.root", "train.warm_start"]
    made = config.load(["data=folder", *(f"{key}={evil}" for key in keys)])
    assert WORD not in config.to_json(made) + repr(made)
    assert made.tracking.uri == made.runs.root == "http://***@127.0.0.1:9/"
    assert addresses.whole(str(made.tracking.uri), "tracking.uri") == evil
    old = json.dumps({**json.loads(config.to_json(made)), "runs": {"root": evil}})  # as an older version kept it
    assert WORD not in config.to_json(config.from_json(old))


def test_a_process_that_was_not_told_says_how_to_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(checks.UserError, match=r"tracking\.uri=http://\*\*\*@host/ is kept without its secret: give"):
        addresses.whole("http://***@host/", "tracking.uri")
    monkeypatch.setenv(addresses.VARIABLE, "no json")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{WORD}@host/")
    assert addresses.whole("http://***@host/", "tracking.uri") == f"http://me:{WORD}@host/"
    with pytest.raises(checks.UserError, match="MLFLOW_TRACKING_URI"):
        addresses.whole("http://***@other/", "tracking.uri")


def test_a_child_inherits_what_its_parent_was_told() -> None:
    addresses.without_secrets(f"http://me:{WORD}@host/")
    code = "from fedveil.storage import addresses; print(addresses.whole('http://***@host/', 'x'))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == f"http://me:{WORD}@host/"


def test_secrets_are_hidden_wherever_they_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses.without_secrets("http://me:s%40cret%2Fword@host/?token=abcd1234")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "from the environment")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tokentoken")
    text = "login s@cret/word or s%40cret%2Fword with abcd1234 or from the environment failed: tokentoken."
    assert addresses.redacted(text) == "login *** or *** with *** or *** failed: ***."
    addresses.without_secrets("http://me:abc@host/")
    assert addresses.redacted("abc is too short to look for") == "abc is too short to look for"


@pytest.mark.parametrize(
    "words",
    [
        ["simulate", f"seed=http://user:a,{WORD}@host/"],
        ["simulate", f"http://user:{WORD}@host/"],
        ["simulate", f"train.rounds=http://user:{WORD}@host/"],
        ["simulate", f"trakking.uri=http://user:{WORD}@host/"],
        ["simulate", f"data=http://user:{WORD}@host/"],
        ["simulate", "data=folder", f"data.root=http://user:{WORD}@host/", "data.evaluation=procedural"],
        ["simulate", f"train.warm_start=http://user:{WORD}@host/", "protection=none", "study=quick", "tracking=none"],
        ["sweep", f"tracking.uri=http://user:{WORD}@host/"],
        ["sweep", f"tracking.uri=http://user:{WORD}@host/,http://b/"],
        ["bundle", "app", f"seed=http://user:{WORD}@host/"],
        ["ui", f"tracking.uri=http://user:{WORD}@127.0.0.1:9/"],
        ["summary", "nothing", f"runs.root=http://user:{WORD}@host/"],
        ["methods", f"--http://user:{WORD}@host/"],
    ],
)
def test_no_message_repeats_a_secret(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(words)
    except SystemExit as end:
        status = int(str(end.code))
    shown = capsys.readouterr()
    assert status == 2
    assert shown.err
    assert WORD not in shown.out + shown.err
    assert not [path for path in tmp_path.rglob("*") if WORD in str(path)]


def test_a_bundle_carries_no_secret_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bundle", str(tmp_path / "app"), "study=quick", f"tracking.uri=http://user:{WORD}@127.0.0.1:9/"]
    assert cli.main(words) == 0
    assert WORD not in (tmp_path / "app" / "pyproject.toml").read_text()
    shown = capsys.readouterr().out
    assert "MLFLOW_TRACKING_URI" in shown
    assert max(len(line) for line in shown.splitlines() if str(tmp_path) not in line) <= 80
    assert cli.main(["bundle", str(tmp_path / "plain"), "study=quick"]) == 0
    assert "MLFLOW_TRACKING_URI" not in capsys.readouterr().out


def test_a_librarys_log_is_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"http://me:{WORD}@host/"
    addresses.without_secrets(address)
    logger = logging.getLogger("fedveil-test-library")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        addresses.quiet_logs("fedveil-test-library")
        addresses.quiet_logs("fedveil-test-library")
        assert len(handler.filters) == 1
        try:
            raise OSError(f"no route to {address}")
        except OSError:
            logger.exception("retrying %s", address)
    finally:
        logger.removeHandler(handler)
    shown = capsys.readouterr().err
    assert "retrying http://***@host/" in shown
    assert "OSError: no route to http://***@host/" in shown
    assert WORD not in shown
