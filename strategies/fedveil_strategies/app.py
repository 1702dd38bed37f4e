"""The Flower adapter of the coordinator: Grid -> roll call and transport -> `coordinator.coordinate`."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedveil import checks, runs
from fedveil.engine import arrays
from fedveil.federation import coordinating, instruction, planning, registered, variates
from fedveil.records import Failure, Tensors, Update
from fedveil_strategies import coordinator, early, fetching, replies, rounds
from fedveil_strategies.attendance import Attendance
from fedveil_strategies.roll_call import Questions, RollCall, Uniform

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation over the nodes of `grid`.

    Run configuration: `config` (JSON), `run-id` (empty: a new run), `progress`, `parent`, `nodes` (see
    `federation.registered`), `own-settings` (see `federation.coordinating`), `round-timeout` in seconds; from a
    simulation `began`, when it did (`time.perf_counter`).
    """
    given = context.run_config
    uniform = bool(getattr(grid, "uniform", False))  # a simulation's; the people of real nodes are not this machine's
    text, words = str(given["config"]), shlex.split(os.environ.get(instruction.COORDINATOR_WORDS, ""))
    wanted = str(given.get("own-settings", "")).split()
    run = instruction.completed(text, words) if uniform else coordinating.completed(text, words, wanted)
    planning.check_planned(run.settings)
    run_id = str(given.get("run-id", "")) or runs.new_run_id(run.settings.method)
    instruction.plain_name(run_id, "run-id")
    seconds = float(given.get("round-timeout", run.settings.engine.round_timeout))
    checks.positive(**{"round-timeout": seconds})
    torch.set_num_threads(1)  # equal bits on every engine
    questions = Questions(grid, run, run_id, seconds)
    local = bool(getattr(grid, "local", False))
    called: RollCall = Uniform(questions)
    began = time.perf_counter()
    if uniform:
        began = float(given.get("began", began))
    else:
        called = Attendance(questions, registered.from_text(str(given.get("nodes", ""))))
    called.begin()

    def transport(
        number: int, cohort: Sequence[str], tensors: Tensors, state: Mapping[str, Any]
    ) -> Iterator[Update | Failure]:
        called.refresh()
        coordinator.report(opened, called.news())
        present, absent = called.present(cohort)
        yield from absent
        # One content for all: an engine on this machine puts it where all of them read it.
        content = RecordDict(
            {
                "instruction": ConfigRecord({**questions.told, "round": number}),
                "tensors": arrays.record(tensors, local),
                "state": arrays.record({name: value.numpy() for name, value in state.items()}, local),
            }
        )
        messages = {
            node: Message(content, dst_node_id=node, message_type="train", group_id=str(number)) for node in present
        }
        del content  # whoever has been sent it has it
        if not messages:
            return
        allowed = run.trainable(variates.without(tensors), run.stage_of(number))
        shapes = {name: tensors[name].shape for name in allowed}
        asked = replies.Asked(run_id, number, messages, present, shapes, called.vault_of, seconds)
        answered = functools.partial(
            replies.answers, asked=asked,
            changed=lambda node, client: called.exclude(node, client, replies.OTHER_VAULT),
        )  # fmt: skip
        if local:  # its answers are almost in order, and it has few of them at a time
            yield from answered(grid.send_and_receive(messages.values(), timeout=seconds))
            return
        values = sum(tensors[name].nbytes for name in allowed)
        with contextlib.closing(early.Shelf(opened.run.folder, shapes)) as shelf:
            found = fetching.replies(grid, messages, seconds, values, len(allowed))
            yield from rounds.ordered(answered(found), [*present.values()], shelf)

    progress, parent = str(given.get("progress", "auto")), str(given.get("parent", ""))
    opened = coordinator.open_session(run, run_id, progress, parent, called.admit, began)
    coordinator.report(opened, called.news())
    coordinator.coordinate(opened, transport)
