"""Write docs/configuration.md from configs/ and the schema: `python docs/make_configuration.py`.

The comments of the YAML files are the reference; a test writes the page again and compares.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from fedveil.commands.synthesize import chosen as synthesize
from fedveil.configuration import files, idle, marks, plugins, schema, typed, words

HEAD = """\
# Configuration

<!-- Written by docs/make_configuration.py from configs/ and the schema; edit those, not this page. -->

A run is configured by words on the command line, in any order:

| word | meaning |
| --- | --- |
| `protection=dctdp` | choose a method of a group; loads `configs/protection/dctdp.yaml` |
| `train.rounds=30` | override one setting; an unknown key or a wrong type is refused with the nearest name |
| `study=quick` | start from `configs/study/quick.yaml` |

Groups and studies are taken first, overrides go on top; of two words for one setting the later counts. Relative paths
start at the folder in which the command runs.

**Values.** A value is read by the type of its setting, which the tables below give, and by nothing else.

| type | what is read | what is refused, with what to write instead |
| --- | --- | --- |
| word | the text as it stands, also `2024`, `on`, `faces #2` or `[x] y`; quotes that are left stay | an empty text |
| folder | the same; it is made where it is missing | `none`, and a `~` that the shell did not replace |
| whole number | decimal digits with or without a sign, up to 63 bits | `010`, `0x10`, `1_000`, `1e3`, `3.0` |
| number | decimal or scientific: `0.1`, `1e-5`; `inf` where the type says so | `nan`, `1e400`, `1_000.5` |
| true or false | these two | `yes`, `on`, `1` |
| a choice | one of the names that are listed | any other; the nearest is named |
| list | `evaluation.far=[0.1,0.01]`; one element needs no brackets | an empty element |
| block | `'train.local={epochs: 1}'`; better, its settings one by one | unknown fields |
| ... or none | `none` or `null`: left empty | |

`none`, `null`, `inf`, `true` and `false` may be in upper or lower case. Where a word may be `none`, it cannot be said
literally: a file of that name is `./none`. An element of a list that holds a comma, a quote at its start or spaces at
its ends stands in quotes, in which the same quote is doubled: `'policy.floor=["a,b",c]'`. In a [sweep](sweeps.md)
commas separate values, so a word with a comma stands in quotes there, too. A study's file holds such words.

`configs/base.yaml` holds every section and names one method per group; a method's settings stand in its own file and
nowhere else. `runs/RUN_ID/config.json` is the complete configuration of a run, with everything filled in. Settings of
`engine`, `tracking`, `runs` and `vault` never change a result, and `device` and `device_batch` change its rounding
alone, so they may differ when a run is resumed.
"""

_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):\s*(?P<value>.*?)\s*(?:#\s*(?P<note>.*))?$")
_WORDS = {int: "whole number", float: "number", str: "word", bool: "true or false"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One setting of a YAML file: dotted key, value as written (empty for a block), comment."""

    key: str
    value: str
    note: str


def entries(text: str) -> Iterator[Entry]:
    """Yield the settings of a YAML file in its order."""
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if not found:
            continue
        indent = len(found["indent"])
        path = [(depth, key) for depth, key in path if depth < indent] + [(indent, found["key"])]
        value = "none" if found["value"] == "null" else found["value"]  # as a person says it
        yield Entry(".".join(key for _, key in path), value, found["note"] or "")


def kind(hint: Any) -> str:
    """Return a type in words.

    >>> kind(int | None)
    'whole number or none'
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        named = {marks.INFINITE: "number or inf", marks.FOLDER: "folder"}
        return next((named[mark] for mark in arguments[1:] if mark in named), kind(arguments[0]))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(["none" if part is type(None) else kind(part) for part in arguments])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is collections.abc.Mapping:
        return f"block of {kind(arguments[1])}s by name"
    if origin is tuple or origin is list:
        return f"list of {kind(arguments[0])}s"
    if dataclasses.is_dataclass(hint):
        return "block {" + ", ".join(field.name for field in dataclasses.fields(hint)) + "}"
    return _WORDS[hint]


def hint_of(kind_: Any, key: str) -> Any:
    """Return the type of a dotted key."""
    first, _, rest = key.partition(".")
    hint = typed.hints(kind_)[first]
    return hint_of(typed.marks(hint)[0], rest) if rest else hint


def table(rows: list[tuple[str, str, str, str]]) -> str:
    """Return a table of settings: key, default, type, meaning."""
    lines = ["| setting | default | type | meaning |", "| --- | --- | --- | --- |"]
    cells = [tuple(cell.replace("|", "/") for cell in row) for row in rows]
    return "\n".join(lines + [f"| `{key}` | `{value}` | {type_} | {note} |" for key, value, type_, note in cells])


def base_tables() -> str:
    """Return the sections of base.yaml."""
    text = (files.folder() / "base.yaml").read_text()
    groups = (*words.METHOD_GROUPS, *words.SETTING_GROUPS)
    parts, general, choices = [], [], []
    sections: dict[str, list[tuple[str, str, str, str]]] = {}
    notes: dict[str, str] = {}
    for entry in entries(text):
        section, _, inner = entry.key.partition(".")
        if section in groups:
            default = entry.value.removeprefix("{name: ").removesuffix("}")
            names = " or ".join(f"[`{name}`](#{section}{name})" for name in files.choices(section))
            choices.append(f"| `{section}` | `{default}` | {names} | {entry.note} |")
        elif section in ("seed", "device", "device_batch", "precision"):
            general.append((entry.key, entry.value, kind(hint_of(schema.Config, entry.key)), entry.note))
        elif entry.value.startswith("{root:"):
            key = f"{entry.key}.root"
            general.append((key, entry.value[7:-1], kind(hint_of(schema.Config, key)), entry.note))
        elif not entry.value:
            if inner:
                continue
            sections[section], notes[section] = [], entry.note
        else:
            hint = hint_of(schema.Config, entry.key)
            sections[section].append((entry.key, entry.value, kind(hint), entry.note))
    parts.append("## General\n\n" + table(general))
    lines = ["## Groups", "", "| group | default | choices | meaning |", "| --- | --- | --- | --- |", *choices]
    parts.append("\n".join(lines))
    for section, rows in sections.items():
        note = f"{notes[section][:1].upper()}{notes[section][1:]}.\n\n" if notes[section] else ""
        parts.append(f"## `{section}`\n\n{note}{table(rows)}")
    return "\n\n".join(parts)


def group_tables() -> str:
    """Return one table per file of a group."""
    parts = []
    for group in (*words.METHOD_GROUPS, *words.SETTING_GROUPS, words.ATTACK):
        parts.append(f"## Group `{group}`")
        if group == words.ATTACK:
            parts.append("Read by `fedveil attack` and `fedveil sweep`; no part of a run's configuration.")
        for name in files.choices(group):
            text = (files.folder() / group / f"{name}.yaml").read_text()
            if group in plugins.GROUPS:
                hints = plugins.method(group, name)
                about = plugins.summary(group, name)
            else:
                hints = getattr(schema, group.capitalize())
                comments = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
                about = " ".join(comments)
            rows = [
                (f"{group}.{entry.key}", entry.value, kind(hint_of(hints, entry.key)), entry.note)
                for entry in entries(text)
            ]
            body = table(rows) if rows else "No settings."
            parts.append(f"### `{group}={name}`\n\n" + (f"{about}\n\n" if about else "") + body)
    return "\n\n".join([*parts, *synthesis_tables()])


def synthesis_tables() -> Iterator[str]:
    """Yield one table per tier of `fedveil synthesize`."""
    yield "## Group `synthesis`"
    yield "Read by `fedveil synthesize`; no part of a run's configuration. `words` are words of the configuration."
    known = synthesize.kinds()
    for name in files.choices(synthesize.GROUP):
        text = (files.folder() / synthesize.GROUP / f"{name}.yaml").read_text()
        about = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
        rows = [
            (f"synthesis.{entry.key}", entry.value, kind(known.get(entry.key, list[str])), entry.note)
            for entry in entries(text)
        ]
        yield f"### `synthesis={name}`\n\n{about}\n\n{table(rows)}"


def beside() -> str:
    """Return the table of settings that are read only beside others."""
    lines = ["## Settings that are read beside others", ""]
    lines += ["Saying one of them where it would do nothing is refused; defaults and studies may hold it, a sweep"]
    lines += ["leaves it out of the runs that do not read it.", "", "| setting | needs |", "| --- | --- |"]
    for rule in idle.RULES:
        of = f", with `{rule.method}`" if rule.method else ""
        lines.append(f"| {', '.join(f'`{key}`' for key in rule.keys)}{of} | {rule.needs} |")
    return "\n".join(lines)


def studies() -> str:
    """Return the list of studies."""
    lines = ["## Studies", ""]
    for name in files.choices("study"):
        text = (files.folder() / "study" / f"{name}.yaml").read_text()
        about = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
        lines.append(f"- `study={name}`: {about}")
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    return "\n\n".join([HEAD.rstrip(), base_tables(), group_tables(), beside(), studies()]) + "\n"


if __name__ == "__main__":
    target = Path(__file__).parent / "configuration.md"
    target.write_text(page())
    print(target)
