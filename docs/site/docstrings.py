"""Docstrings as they are written here: Markdown's code and tables, and signs that mean themselves.

Sphinx reads reStructuredText, where `|x|`, `a * b` and `gamma_` would be markup. The sections of Google's style are
read after this, by its own extension.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

_KEPT = re.compile(r"(`+[^`]+`+|(?<![\w*])[*]{1,2}[^\s*](?:[^*]*[^\s*])?[*]{1,2}(?![\w*]))")  # code and stressed words
_MARKUP = re.compile(r"(?<!\\)[*|]|(?<=\w)_(?!\w)")
_COLON = "\ue000"  # of nobody's use
_BULLET = re.compile(r"\s*[*] ")
_RULE = re.compile(r"\s*[|][|\s:-]+")


def plain(lines: list[str]) -> list[str]:
    r"""Return a docstring's lines for Sphinx; examples stay as they are.

    >>> plain(["|x| <= a * b, see `a|b`"])
    ['\\|x\\| <= a \\* b, see `a|b`']
    """
    out: list[str] = []
    example = table = False
    for line in re.sub(r" *\\\n *", " ", "\n".join(lines)).split("\n"):  # a row of a table may go on behind a backslash
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        rule = bool(_RULE.fullmatch(line))
        row = not example and (rule or line.lstrip().startswith("| "))
        if row and not rule:
            out += _row(line, first=not table)
        elif not row:
            out += [""] if table else []
            out.append(line if example else escaped(line))
        table = row
    return out


def _row(line: str, first: bool) -> list[str]:
    """Return a row of a Markdown table as one of a list-table."""
    indent = " " * (len(line) - len(line.lstrip()))
    cells = [escaped(cell.strip()) for cell in re.split(r" [|](?: |$)", line.strip()[2:].removesuffix(" |"))]
    head = ["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""] if first else []
    return [*head, *(f"{indent}   {' ' if place else '*'} - {cell}" for place, cell in enumerate(cells))]


def escaped(line: str) -> str:
    """Return a line of prose in which nothing but code, stressed words and a bullet is markup."""
    found = _BULLET.match(line)
    start = found.end() if found else 0
    parts = _KEPT.split(line[start:])
    parts[::2] = [_MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    return line[:start] + "".join(parts)


def setup(app: Any) -> dict[str, Any]:
    """Change docstrings before the sections are read, and keep signatures as they are written.

    Google's style reads `type: description` in an attribute's first line, which is nobody's habit here: that colon is
    another sign meanwhile.
    """

    def before(_app: Any, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = plain(lines)
        if what in ("attribute", "data", "property"):
            lines[0] = lines[0].replace(":", _COLON)

    def after(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = [line.replace(_COLON, ":") for line in lines]

    def unresolved(_app: Any, documented: Any, _bound: bool) -> None:
        """Leave types as they are written: `NDArray[np.float64]`, not what NumPy makes of it."""
        with contextlib.suppress(AttributeError, TypeError):
            documented.__no_type_check__ = True

    app.connect("autodoc-before-process-signature", unresolved)
    app.connect("autodoc-process-docstring", before, priority=400)
    app.connect("autodoc-process-docstring", after, priority=600)
    return {"parallel_read_safe": True}
