"""The roll call of a SuperLink's nodes, asked one by one: at the start, and whoever appears or comes back later.

Nobody is waited for once the run has begun: a question to a new node is sent before a round, and its answer counts from
the round before which it has come.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Message

from fedveil import checks
from fedveil.federation import registered
from fedveil.records import Failure
from fedveil.runs import Run
from fedveil_strategies import bounded
from fedveil_strategies.guard import Bounds
from fedveil_strategies.roll_call import Answer, Questions

_LONGEST = 120.0  # seconds that the first roll call waits for nodes that say nothing
_WHOLE = 10.0  # seconds within which an answer that has begun to come has to be there whole
_SELF_DECLARED = (
    "client ids are what each node says of itself; `fedveil bundle --nodes` binds them to the keys that are registered"
)


class Attendance:
    """Who is there, of nodes that come, go, refuse, and claim each other's names.

    Args:
        questions: what is asked.
        nodes: client -> its registered node (`federation.registered`); a node that claims another's id is excluded.
            Empty: clients are who they say they are, and of two that say the same none is trusted, or the one that was
            there first, or the one whose vault the run began with.
    """

    def __init__(self, questions: Questions, nodes: Mapping[str, str]) -> None:
        self._questions, self._nodes = questions, nodes
        self._run: Run | None = None
        self._news: list[str] = []
        self._online: dict[int, bytes] = {}  # node -> public key
        self._heard: dict[int, str] = {}  # node that was asked -> since when it was up then
        self._open: list[Message] = []  # questions without an answer
        self._clients: dict[int, Answer] = {}  # node -> accepted client
        self._claims: dict[int, Answer] = {}  # node -> what it says of itself while another node is that client
        self._reasons: dict[str, str] = {}  # client or node -> why it does not take part

    def begin(self) -> None:
        """Ask everybody who is connected and wait for the answers, two minutes at most."""
        new = self._look()
        if not self._online:
            raise checks.UserError("No client is connected: start the nodes first.")
        if not self._nodes:
            self._news.append(_SELF_DECLARED)
        longest = min(self._questions.seconds, _LONGEST)
        end, pause = time.monotonic() + longest, 0.05
        self._ask(new)
        batch = self._answered()
        while self._open and time.monotonic() < end:
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
            batch += self._answered()
        self._settle(batch)
        for question in self._open:
            self._say(question.metadata.dst_node_id, "", f"no answer within {longest:g} s; it may still join")
        count = self._enough()
        whole = len(self._questions.run.registry)
        if count < whole:
            self._news.append(f"{count} of {whole} clients are here; those who are not count as zero updates")

    def admit(self, run: Run) -> None:
        """Remember each client's vault."""
        self._run = run
        self._questions.remember(run, {answer.client: answer.vault for answer in self._clients.values()})

    def refresh(self) -> None:
        """Ask whoever is new, and take up the answers that have come."""
        new = self._look()
        batch = self._answered()
        self._ask(new)
        batch += self._answered()
        here = set(self._here())
        for node in [node for node, claim in self._claims.items() if claim.client not in here]:
            batch.append((node, self._claims.pop(node)))  # the one who was there first has gone
        if batch:
            self._settle(batch)
            if self._run is not None:
                self.admit(self._run)
        self._enough()

    def present(self, cohort: Sequence[str]) -> tuple[dict[int, str], list[Failure]]:
        """Return node -> client of those of the cohort who are connected, and why the others are not asked."""
        here = self._here()
        absent = [
            Failure(client, self._reasons.get(client, "not connected"), "excluded")
            for client in cohort
            if client not in here
        ]
        return {here[client]: client for client in cohort if client in here}, absent

    def vault_of(self, client: str) -> str:
        """Return the vault that a client has said it has."""
        return self._questions.vault_before(client)

    def exclude(self, node: int, client: str, reason: str) -> None:
        """Ask this node no more, unless it is started anew."""
        self._clients.pop(node, None)
        self._say(node, client, reason)

    def news(self) -> list[str]:
        """Return what has happened, a line each."""
        found, self._news = self._news, []
        return found

    def _here(self) -> dict[str, int]:
        return {answer.client: node for node, answer in self._clients.items() if node in self._online}

    def _look(self) -> list[int]:
        """See who is connected; return the nodes that are new or were started anew, and forget those that have gone."""
        found = {info.node_id: info for info in self._questions.grid.get_nodes()}
        self._online = {node: info.public_key for node, info in found.items()}
        for node, since in list(self._heard.items()):
            if node not in found or found[node].last_activated_at != since:
                del self._heard[node]
                self._clients.pop(node, None)
                self._claims.pop(node, None)
        new = [node for node in sorted(found) if node not in self._heard]
        self._heard |= {node: found[node].last_activated_at for node in new}
        return new

    def _ask(self, nodes: Sequence[int]) -> None:
        if nodes:
            asked = [self._questions.query(node) for node in nodes]
            names = self._questions.grid.push_messages(asked)
            self._open += [question for name, question in zip(names, asked, strict=False) if name]

    def _answered(self) -> list[tuple[int, Answer | Failure]]:
        found: list[tuple[int, Answer | Failure]] = []
        still: list[Message] = []
        for question in self._open:
            answer = bounded.pulled(self._questions.grid, question, Bounds(0, 0, time.monotonic() + _WHOLE))
            if answer:
                found.append((question.metadata.dst_node_id, self._questions.read(answer[0])))
            else:
                still.append(question)
        self._open = still
        return found

    def _settle(self, batch: Iterable[tuple[int, Answer | Failure]]) -> None:
        """Accept or exclude nodes whose answers have come together: of two with one claim none was first."""
        claims: dict[str, dict[int, Answer]] = collections.defaultdict(dict)
        for node, answer in batch:
            if isinstance(answer, Failure):
                self._say(node, self._registered(node) if self._nodes else answer.client_id, answer.reason)
            elif not self._nodes or self._may_be(node, answer.client):
                claims[answer.client][node] = answer
            else:  # what a node claims is not written beside the name of whom it claims to be
                known = answer.client in self._nodes
                who = self._registered(node) or ("" if known else answer.client)
                which = "another" if known else "no"
                self._say(node, who, f"it says that it is {answer.client}; {which} node is registered for this client")
        for client, made in claims.items():
            self._decide(client, made)

    def _may_be(self, node: int, client: str) -> bool:
        entry = self._nodes.get(client, "")
        return bool(entry) and registered.matches(entry, node, self._online.get(node, b""))

    def _registered(self, node: int) -> str:
        """Return the client that a node is registered for; an empty text for none."""
        names = {entry: client for client, entry in self._nodes.items()}
        return names.get(str(node), "") or names.get(registered.fingerprint(self._online.get(node, b"")), "")

    def _decide(self, client: str, made: Mapping[int, Answer]) -> None:
        first = self._here().get(client)
        if first is not None:
            for node, answer in made.items():
                if node == first:  # it was started anew and has answered twice
                    self._clients[node] = answer
                    continue
                self._claims[node] = answer
                self._say(node, client, f"node {first} is this client already; give every node its own client-id")
            return
        known = self._questions.vault_before(client)
        rightful = [node for node, answer in made.items() if len(made) == 1 or (known and answer.vault == known)]
        if len(rightful) != 1:
            rightful = []
        for node, answer in made.items():
            if node in rightful:
                self._clients[node] = answer
                self._reasons.pop(client, None)
                if self._run is not None:  # it was not there at the first roll call
                    self._news.append(f"client {client} (node {node}) takes part from now on")
            else:
                self._say(node, client, f"{len(made)} nodes say that they are this client; give every node its own")

    def _say(self, node: int, client: str, reason: str) -> None:
        who = f"client {client} (node {node})" if client else f"node {node}"
        self._news.append(f"excluded: {who}: {reason}")
        self._reasons[client or f"node {node}"] = reason

    def _enough(self) -> int:
        """Return how many clients are here; raise when they are too few."""
        count, least = len(self._here()), self._questions.run.settings.train.min_clients
        if count >= max(1, least):
            return count
        name, reason = next(iter(self._reasons.items()), ("the nodes", "none is connected any more"))
        few = f"{count} clients take part, fewer than train.min_clients={least}" if count else "No client takes part"
        raise checks.UserError(f"{few}; {name}: {reason.rstrip('.')}.")
