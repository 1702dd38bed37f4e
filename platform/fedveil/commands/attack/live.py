"""How far an attack is: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Steps:
    """A bar for what is being done; the shape of `attacks.base.Progress`."""

    def __init__(self, plain: bool = False) -> None:
        self._out = RichConsole(highlight=False)
        self._live = self._out.is_terminal and not plain
        self._bar: Progress | None = None
        self._task: Any = None
        self._what = ""

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of something are done."""
        if not self._live:
            return
        if self._bar is None or what != self._what:
            self.clear()
            self._what = what
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(),
                console=self._out, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(what, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def clear(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
