"""Who is there: which node is which client, and who cannot take part, by name and with the reason.

A node that cannot take part is excluded and the run goes on with the others; it stops when nobody is left, or fewer
than `train.min_clients`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

import fedveil
from fedveil import checks, readback, runs
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.records import Failure
from fedveil.runs import Run
from fedveil_strategies import replies
from fedveil_strategies.cohorts import Members

EVERYBODY = readback.EVERYBODY


class RollCall(Protocol):
    """Who is there."""

    def begin(self) -> None:
        """Ask, before the run exists.

        Raises:
            fedveil.checks.UserError: too few can take part; with the first reason.
        """

    def admit(self, run: Run) -> None:
        """Remember each client's vault in the run's folder, which is this process's alone now."""

    def refresh(self) -> None:
        """Ask nodes that have appeared or come back since.

        Raises:
            fedveil.checks.UserError: too few are left.
        """

    def present(self, cohort: Sequence[str]) -> tuple[dict[int, str], list[Failure]]:
        """Return node -> client of those who can be asked now, and why the others cannot."""
        ...

    def vault_of(self, client: str) -> str:
        """Return the vault that a client has said it has."""
        ...

    def exclude(self, node: int, client: str, reason: str) -> None:
        """Ask this node no more."""

    def news(self) -> list[str]:
        """Return what has happened since this was last asked, a line each."""
        ...


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a node says of itself."""

    client: str
    vault: str


class Questions:
    """What every roll call asks, how it reads an answer, and what the run remembers of vaults.

    Args:
        grid: Flower's, or a local engine's.
        run: the coordinator's federation.
        run_id: the run.
        seconds: how long a node may take to answer.
    """

    def __init__(self, grid: Grid, run: Federation, run_id: str, seconds: float) -> None:
        self.grid, self.run, self.run_id, self.seconds = grid, run, run_id, seconds
        told: dict[str, Any] = {
            "config": instruction.to_wire(run.settings), "run_id": run_id, "version": fedveil.__version__
        }  # fmt: skip
        self.told = told
        self._question = RecordDict({"instruction": ConfigRecord(told)})
        self.before = readback.vaults_of(Run(Path(run.settings.runs.root), run_id))

    def query(self, node: int) -> Message:
        """Return the question to a node."""
        return Message(self._question, dst_node_id=node, message_type="query")

    def read(self, reply: Message) -> Answer | Failure:
        """Return what a node says, or why it cannot take part; whose failure it is may stay unknown (empty)."""
        failed = replies.failure(reply, "")
        if failed is not None:
            return failed
        record = reply.content.get("client")
        given = dict(record.items()) if isinstance(record, ConfigRecord) else {}
        words = {key: replies.one_line(value) for key, value in given.items() if isinstance(value, str)}
        client = words.get("client_id", "")[:80]
        if words.get("version") != fedveil.__version__:
            theirs = words.get("version", "of an unknown version")[:40]
            return Failure(
                client, f"it runs fedveil {theirs}, the coordinator {fedveil.__version__}; install equal versions"
            )
        if set(words) != {"client_id", "version", "vault", "run_id"} or words["run_id"] != self.run_id:
            return Failure(client, "its answer to the roll call cannot be read")
        registry = self.run.registry
        if client not in registry:
            return Failure(
                client, f"it is not in the registry of train.clients={len(registry)}, {registry[0]} to {registry[-1]}; "
                "set client-id in the node's configuration",
            )  # fmt: skip
        if self.vault_before(client) not in ("", words["vault"]):
            noisy = bool(self.run.protection.noise)
            lost = "its noisy copies would be drawn again" if noisy else "its class centres and ledger are not there"
            reason = f"run {self.run_id} began with another vault of this client: {lost}; restore the vault, or start a"
            return Failure(client, f"{reason} new run")
        return Answer(client, words["vault"])

    def vault_before(self, client: str) -> str:
        """Return the vault that a client had when the run began; an empty text when it is new."""
        return self.before.get(client, self.before.get(EVERYBODY, ""))

    def remember(self, run: Run, vaults: Mapping[str, str]) -> None:
        """Add clients and their vaults to what the run's folder says."""
        if {**self.before, **vaults} != self.before:
            self.before = {**self.before, **vaults}
            runs.write_json(run.folder / "vaults.json", self.before, private=True)


class Uniform:
    """A local engine's nodes: node i is client i - 1 of the registry, and what one of them says holds for all."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._vault = ""

    def begin(self) -> None:
        """Ask one node."""
        asked = self._questions
        (reply,) = asked.grid.send_and_receive([asked.query(1)], timeout=asked.seconds)
        answer = asked.read(reply)
        if isinstance(answer, Failure):
            raise checks.UserError(f"No client takes part: {answer.reason.rstrip('.')}.")
        self._vault = answer.vault

    def admit(self, run: Run) -> None:
        """Remember the one vault."""
        self._questions.remember(run, {EVERYBODY: self._vault})

    def refresh(self) -> None:
        """Nobody comes or goes."""

    def present(self, cohort: Sequence[str]) -> tuple[dict[int, str], list[Failure]]:
        """Return everybody; no client is an object before it joins a round."""
        places = cohort.places.tolist() if isinstance(cohort, Members) else []
        return {place + 1: client for place, client in zip(places, cohort, strict=True)}, []

    def vault_of(self, client: str) -> str:
        """Return the one vault."""
        return self._vault

    def exclude(self, node: int, client: str, reason: str) -> None:
        """End the run: there is one vault, so it is everybody's."""
        raise checks.UserError(f"Client {client}: {reason}.")

    def news(self) -> list[str]:
        """Return nothing."""
        return []
