"""Whatever is answered with a refusal: exactly one new line in the owner's log says it, in full and in one line."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

import fedveil
from fedveil.engine import _flower
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil_clients import app as client_app
from fedveil_clients import node, refusals, training

WORDS = (
    "study=quick", "tracking=none", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=4",
    "protection=none", "model.width=8", "model.embedding=16", "train.clients=3", "train.local.steps=1",
    "train.batch_size=6",
)  # fmt: skip
NASTY = ("a\nb", "\x1b[2J", "\u2028", "\x00", "run x: y", "\u202e", "x" * 5000, "../..", "\udcff", "")


class Mute(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("not even that")


@pytest.fixture(scope="module")
def run():
    return Federation.of(WORDS)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(node.FILE, raising=False)
    Path("vault").mkdir()


def arrays(values):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


def content_of(run, **changes):
    told = {"config": instruction.to_wire(run.settings), "run_id": "run", "version": fedveil.__version__, "round": 1,
            **changes}  # fmt: skip
    told = {key: value for key, value in told.items() if value is not None}
    return {"instruction": ConfigRecord(told), "tensors": arrays(get_tensors(run.backbone())), "state": arrays({})}


def asked(content, kind="train", words=None):
    """Send a message; return whether it was refused, and the lines that are new in the log."""
    _flower.identify()
    message = Message(RecordDict(content), dst_node_id=2, message_type=kind)
    _flower.number(message, "m1")
    own = {"client-id": "c0002", "vault-root": "vault", "floor": "none", **(words or {})}
    log = Path("vault/refusals.log")
    before = log.read_bytes() if log.exists() else b""
    reply = client_app.app(message, _flower.client_context(_flower.Settings(3, {}, own), 2))
    assert not reply.has_error()
    after = log.read_bytes() if log.exists() else b""
    assert after.startswith(before)
    lines = after[len(before) :].decode().split("\n")
    assert lines.pop() == ""
    assert all(line.isprintable() for line in lines)
    return "refusal" in reply.content, lines


def hostile(run, seed):
    """Return a message that something is wrong with: kind, records, or one field of the instruction."""
    dice = random.Random(seed)
    nasty = dice.choice([*NASTY, 7, 1.5, True, b"\xff", -1])
    content, kind = content_of(run), "train"
    match dice.randrange(6):
        case 0:
            kind = dice.choice(["evaluate", "query.more", "train.more", "query", "evaluate.x"])
        case 1:
            content.pop(dice.choice(sorted(content)))
        case 2:
            name = dice.choice(["instruction", "tensors", "state", f"more{dice.choice(NASTY)}"])
            content[name] = dice.choice([MetricRecord({"a": 1}), arrays({"a": 1.0}), ConfigRecord({"a": "b"})])
        case 3:
            content = content_of(run, **{dice.choice(["config", "version", "round"]): nasty})
        case 4:
            content = content_of(run, run_id=dice.choice([*NASTY, 7]))
        case _:
            good = get_tensors(run.backbone())
            name = dice.choice(sorted(good))
            wrong = dice.choice([good[name][None], np.full_like(good[name], np.nan), good[name].astype(np.float64)])
            content["tensors"] = arrays({**good, name: wrong})
    return content, kind


def test_every_refusal_of_a_hostile_message_is_one_line_in_the_log(run):
    known = 0
    for seed in range(120):
        content, kind = hostile(run, seed)
        refused, lines = asked(content, kind)
        assert refused, (seed, kind)
        assert len(lines) == 1, (seed, lines)
        (entry,) = [*refusals.read(Path("vault/refusals.log"))][-1:]
        assert len(entry[2]) > 10
        known += entry[1] == "run"
    assert known > 60  # an instruction that names its run plainly is logged under it, whatever else is wrong


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), MemoryError(), RecursionError("deep"), Mute(), ValueError("a\nb\x1b[2J")],
)
def test_whatever_fails_in_training_is_one_line(run, monkeypatch, error):
    def failing(*_):
        raise error

    monkeypatch.setattr(training, "train_round", failing)
    refused, (line,) = asked(content_of(run))
    assert refused
    assert f" run run: {type(error).__name__}" in line


@pytest.mark.parametrize(
    ("words", "reason"),
    [({"floor": "dctdp"}, "floor accepts"), ({"max-total-epsilon": 8.0}, "8"), ({"client-id": "c9"}, "registry"),
     ({"unknown": 1}, "Unknown word"), ({"data-set": "a/b"}, "without / and"), ({"max-epsilon": "x"}, "number")],
)  # fmt: skip
def test_what_the_owner_refuses_is_one_line_and_full(run, words, reason):
    refused, (line,) = asked(content_of(run), words=words)
    assert refused
    assert reason in line


def test_what_fails_after_training_or_in_the_words_is_one_line(run, monkeypatch):
    monkeypatch.setattr(client_app.arrays, "record", lambda *_: 1 / 0)
    _, (line,) = asked(content_of(run))
    assert "run run: ZeroDivisionError" in line
    monkeypatch.setattr(client_app.nodes, "words_of", lambda *_: 1 / 0)
    assert asked(content_of(run))[0]
    assert asked(content_of(run), "query")[0]


def test_a_refusal_is_made_in_one_place():
    """No other module of the owner's side makes a record of this name, so none answers without a line."""
    found = []
    for path in Path(refusals.__file__).parent.glob("*.py"):
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.Constant) and part.value == "refusal":
                found.append(path.name)
    assert found == ["refusals.py"]
