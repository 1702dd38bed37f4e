"""What a person sees while a sweep runs, at 80 columns: a live table on a terminal, a line per ended run elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.markup import escape
from rich.table import Table

from fedveil.commands.sweep import leakage
from fedveil.commands.sweep.sweep import Outcome
from fedveil.console import clock, percent

_FIRST = {"running": 0, "failed": 1, "stopped": 2, "finished": 3, "waiting": 4}


class Live:
    """Shows the outcomes of a sweep; a context, so that the terminal is left as it was."""

    def __init__(self, plain: bool = False) -> None:
        self._out = Console(highlight=False, soft_wrap=True)
        self._live: RichLive | None = None
        if self._out.is_terminal and not plain:
            self._live = RichLive(console=self._out, auto_refresh=False)
        self._begun: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._said: set[str] = set()
        self._attacked: set[tuple[str, str]] = set()

    def __enter__(self) -> Live:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, outcomes: Sequence[Outcome]) -> None:
        """Show where every run stands now."""
        now = time.monotonic()
        for outcome in outcomes:
            if outcome.state == "running":
                self._begun.setdefault(outcome.run_id, now)
                self._took[outcome.run_id] = now - self._begun[outcome.run_id]
        if self._live is not None:
            self._live.update(self._table(outcomes), refresh=True)
            return
        for outcome in outcomes:
            begun = (outcome.run_id, outcome.attack[0]) if outcome.attack else None
            if outcome.state == "running" and begun is not None and begun not in self._attacked:
                self._attacked.add(begun)
                self._out.print(f"{'':>9} {outcome.cell.label}: attack {begun[1]}", markup=False)
            if outcome.state in ("finished", "failed") and not outcome.earlier and outcome.run_id not in self._said:
                self._said.add(outcome.run_id)
                done = sum(other.state in ("finished", "failed") for other in outcomes)
                self._out.print(f"{f'[{done}/{len(outcomes)}]':>9} {self._line(outcome)}", markup=False)

    def _line(self, outcome: Outcome) -> str:
        took = clock(self._took.get(outcome.run_id, 0.0))
        accuracy = f"accuracy {percent(outcome.result['final']['accuracy']).strip()}, " if outcome.result else ""
        if outcome.state == "failed":
            return f"{outcome.cell.label}: {accuracy}failed after {took}: {outcome.reason}"
        linked = leakage.of(outcome.findings.values())["linked"]
        return f"{outcome.cell.label}: {accuracy}{took}" + (
            "" if linked is None else f", linked {percent(linked).strip()}"
        )

    def _table(self, outcomes: Sequence[Outcome]) -> Group:
        table = Table(box=None, width=min(80, self._out.width), padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("run", ratio=1, no_wrap=True, overflow="ellipsis")
        for name in ("state", "round", "accuracy", "time"):
            table.add_column(name, justify="right", no_wrap=True)
        rows = max(4, self._out.height - 4)
        ordered = sorted(outcomes, key=lambda outcome: _FIRST[outcome.state])
        for outcome in ordered[:rows]:
            accuracy = outcome.result["final"]["accuracy"] if outcome.result else None
            took = self._took.get(outcome.run_id)
            table.add_row(
                escape(outcome.cell.label),
                _state(outcome),
                _step(outcome),
                percent(accuracy).strip(),
                clock(took) if took is not None else "",
            )
        counts = ", ".join(
            f"{sum(outcome.state == state for outcome in outcomes)} {state}"
            for state in _FIRST
            if any(outcome.state == state for outcome in outcomes)
        )
        hidden = f" ({len(ordered) - rows} not shown)" if len(ordered) > rows else ""
        return Group(table, f"{len(outcomes)} runs: {counts}{hidden}")


def _state(outcome: Outcome) -> str:
    if outcome.state == "running" and outcome.attack is not None:
        return f"attack {outcome.attack[0]}"
    return "earlier" if outcome.earlier else outcome.state


def _step(outcome: Outcome) -> str:
    if outcome.state == "running" and outcome.attack is not None:
        return f"{outcome.attack[1]} %"
    return f"{outcome.round}/{outcome.cell.federation.total_rounds}"
