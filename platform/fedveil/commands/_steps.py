"""How far long work is: a bar with steps a second on a terminal; elsewhere nothing, or a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedveil.console import clock

_EVERY = 30.0  # seconds between two lines where there is no terminal


class Steps:
    """What is being done, how fast, and how long it still takes; `show` has the shape of `attacks.base.Progress`."""

    def __init__(self, plain: bool = False, lines: bool = False) -> None:
        """Say whether a terminal gets no bar, and whether there are lines where there is no bar."""
        self._lines = lines
        self._out = RichConsole(highlight=False)
        self._live = self._out.is_terminal and not plain
        self._bar: Progress | None = None
        self._task: Any = None
        self._what, self._began, self._first, self._said = "", 0.0, 0, 0.0

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def say(self, line: str) -> None:
        """Print a line."""
        self.clear()
        self._out.print(line, soft_wrap=True, markup=False)

    def show(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of something are done."""
        now = time.monotonic()
        if what != self._what:
            self.clear()
            self._what, self._began, self._first, self._said = what, now, done, now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        if self._live:
            self._show(what, done, total, rate)
        elif self._lines and now - self._said > _EVERY and rate > 0:
            self._said = now
            left = clock((total - done) / rate)
            self._out.print(f"{what} {done:,}/{total:,}, {rate:.3g} a second, {left} left", soft_wrap=True)

    def _show(self, what: str, done: int, total: int, rate: float) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=self._out, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, rate="")
        self._bar.update(self._task, completed=done, total=total, rate=f"{rate:.3g}/s")

    def clear(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
