"""What a person sees, at 80 columns; while a federation runs, a bar on a terminal and plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedveil.storage import addresses

if TYPE_CHECKING:
    from fedveil.records import RoundReport

WIDTH = 80
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_WORD = re.compile(r"""(?:`[^`]*`|(?<!\w)'[^']*'(?!\w)|(?<!\w)"[^"]*"(?!\w)|\S)+""")


def wrapped(text: str, hang: str = "  ") -> str:
    """Return lines of at most 80 columns; what follows in a line that was too long is indented by `hang` more.

    Nothing is broken that somebody may want to copy: a path, a run's id, what stands in quotes or backticks. Where one
    of them is longer than a line, so is its line.

    >>> print(wrapped("the folder 'my faces' is at " + 60 * "x" + " and nowhere else"))
    the folder 'my faces' is at
      xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx and nowhere else
    """
    return "\n".join(_filled(line, hang) for line in text.split("\n"))


def _filled(line: str, hang: str) -> str:
    if len(line) <= WIDTH:
        return line
    indent = line[: len(line) - len(line.lstrip(" "))]
    lines, room = [""], WIDTH - len(indent)
    for word in _WORD.findall(line):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if len(longer) <= room - (len(hang) if len(lines) > 1 else 0) or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join([indent + lines[0], *(indent + hang + rest for rest in lines[1:])])


def harmless(text: str) -> str:
    r"""Return a text that a terminal only shows: signs that steer it, or turn the order of letters, are written out.

    What arrives from elsewhere (a bundle, a name, an error of another machine) may hold any.

    >>> print(harmless("floor \x1b[2Jgone"))
    floor \x1b[2Jgone
    """
    return _STEERING.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def tell(text: str) -> None:
    """Print what a command found, at 80 columns."""
    print(wrapped(harmless(addresses.redacted(text))), flush=True)


def complain(text: str) -> None:
    """Print a message on standard error: at 80 columns on a terminal, as one line where a log or a program reads it."""
    text = harmless(addresses.redacted(text))
    print(wrapped(text) if sys.stderr.isatty() else text, file=sys.stderr)


def percent(value: float | None) -> str:
    """Return e.g. ` 81.2 %`, or a dash.

    >>> percent(0.8125), percent(None)
    (' 81.2 %', '      -')
    """
    return f"{100 * value:5.1f} %" if value is not None else "      -"


class Console:
    """One run's output. `mode` is auto (a bar if this is a terminal), plain, or quiet (a bar, no lines)."""

    def __init__(self, mode: str = "auto") -> None:
        self.mode = mode
        self._out = RichConsole(highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._learning: tuple[Progress, Any] | None = None
        self._live = mode in ("auto", "quiet") and self._out.is_terminal

    def say(self, text: str) -> None:
        """Print one line, unless quiet."""
        if self.mode != "quiet":
            (self._bar.console if self._bar is not None else self._out).print(harmless(text), markup=False)

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeRemainingColumn(),
            console=self._out, transient=True,
        )  # fmt: skip

    def progress(self, done: int, total: int, what: str = "learning") -> None:
        """Show how far a preparation has come; the shape of `protections.base.Progress`."""
        if not self._live:
            return
        if self._learning is None:
            bar = self._progress()
            bar.start()
            self._learning = (bar, bar.add_task(what, total=total))
        bar, task = self._learning
        bar.update(task, completed=done)
        if done >= total:
            bar.stop()
            self._learning = None

    def begin(self, rounds: int, done: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Start the rounds; a resumed run shows what it has already."""
        if done:
            last = history[-1]
            self.say(f"resuming after round {done} of {rounds} (accuracy {percent(last['accuracy']).strip()})")
        if self._live:
            self._bar = self._progress()
            self._bar.start()
            self._task = self._bar.add_task("rounds", total=rounds, completed=done)
        self.say("round    accuracy     EER   epsilon (delta), unit, relation      seconds")

    def round(self, entry: Mapping[str, Any], report: RoundReport) -> None:
        """Show one finished round."""
        # The client level grows from round to round; without it, the images' guarantee is what there is.
        shown = next((s for s in entry["statements"] if s["unit"] in ("client", "image")), None)
        if shown is None or shown["epsilon"] is None:
            claim = "infinite: no guarantee"
        else:
            claim = f"{shown['epsilon']:.4g} ({shown['delta']:g}), {shown['unit']}, {shown['relation']}"
        place = f"{report.round:>4}/{report.rounds:<4}"
        rates = f"{percent(entry['accuracy'])} {percent(entry.get('eer'))}"
        seconds = f"{entry['seconds']:7.2f}" if "seconds" in entry else "      -"
        self.say(f"{place} {rates}   {claim:<32} {seconds}")
        for failure in report.failures[:3] if "seconds" in entry else ():
            text = f"{failure.client_id} counts as zero: {failure.reason}"
            self.say(textwrap.fill(text, 80, initial_indent=" " * 10, subsequent_indent=" " * 12))
        if self._bar is not None:
            self._bar.update(self._task, completed=report.round)

    def end(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def clock(seconds: float) -> str:
    """Return e.g. `1 min 05 s` or `9.5 s`.

    >>> clock(65.2), clock(9.5)
    ('1 min 05 s', '9.5 s')
    """
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s" if seconds >= 60 else f"{seconds:.1f} s"
