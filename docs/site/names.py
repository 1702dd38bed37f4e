"""Names in docstrings and signatures lead to what they name, as the module that says them would find it.

`disk.write_atomic` is looked up in the module's own namespace, as Python does. What is not ours, is private or has no
page stays text; what a role spells out in full and leads nowhere is left to Sphinx, which warns.
"""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from types import FunctionType, ModuleType
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

_NAME = re.compile(r"[A-Za-z]\w*(\.\w+)*(\(\))?")


def known(name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """Return what stands in single backticks as code; a name, as a reference to what it names."""
    if not _NAME.fullmatch(text):
        return [nodes.literal(rawtext, text)], []
    context = inliner.document.settings.env.ref_context
    made = addnodes.pending_xref(
        rawtext, nodes.literal(rawtext, text), refdomain="py", reftype="obj", reftarget=text.removesuffix("()"),
        refexplicit=False, refwarn=False, **{key: context.get(key) for key in ("py:module", "py:class")},
    )  # fmt: skip
    return [made], []


def found_in(module: str, target: str) -> str | None:
    """Return the full name of what `target` names in a module's code; None: nothing.

    >>> found_in("fedveil.simulation", "runs.Run"), found_in("fedveil.simulation", "Path")
    ('fedveil.runs.Run', 'pathlib.Path')
    """
    here: Any = importlib.import_module(module)
    full = module
    for part in target.split("."):
        full = f"{here.__name__ if isinstance(here, ModuleType) else full}.{part}"
        try:
            here = getattr(here, part)
        except AttributeError:
            return None
    if isinstance(here, ModuleType):
        return here.__name__
    if isinstance(here, (type, FunctionType)):  # they know their place; an alias knows what it stands for alone
        return f"{here.__module__}.{here.__qualname__}"
    return full


class Names(SphinxPostTransform):
    """Give every Python reference of a page its full name, or make it text, before Sphinx resolves it."""

    default_priority = 5

    def run(self, **_: Any) -> None:
        """Go through a page."""
        objects = self.env.get_domain("py").objects
        for node in [*self.document.findall(addnodes.pending_xref)]:
            if node.get("refdomain") != "py" or node["reftarget"] in objects:
                continue
            full = self._full(node, objects)
            if full in objects:
                node["reftarget"], node["refspecific"], node["reftype"] = full, False, "obj"
            elif not (node.get("refexplicit") and node["reftarget"].startswith("fedveil")):
                node.replace_self(_text(node))

    def _full(self, node: Any, objects: Any) -> str:
        module, target = node.get("py:module"), node["reftarget"]
        inside = [f"{node['py:class']}.{target}", target] if node.get("py:class") else [target]
        for name in inside if module else []:
            full = found_in(module, name)
            if full and (full in objects or not full.startswith(module)):
                return full
        ends = self._ends(objects).get(target, [])
        return ends[0] if len(ends) == 1 and ("." in target or target[0].isupper()) else ""

    def _ends(self, objects: Any) -> dict[str, list[str]]:
        """Return every object by the ends of its name, for aliases, which do not know where they come from."""
        if not hasattr(self.env, "_fedveil_ends"):
            made: dict[str, list[str]] = defaultdict(list)
            for full in objects:
                parts = full.split(".")
                for start in range(1, len(parts)):
                    made[".".join(parts[start:])].append(full)
            self.env._fedveil_ends = made
        ends: dict[str, list[str]] = self.env._fedveil_ends
        return ends


def _text(node: Any) -> list[Any]:
    """Return what a reference shows, as it was written."""
    conditions = [child for child in node.children if isinstance(child, addnodes.pending_xref_condition)]
    written = [child for child in conditions if child.get("condition") == "*"]
    return [*(written[0].children if written else node.children)]


def setup(app: Any) -> dict[str, Any]:
    """Add the role and the transform."""
    app.add_role("known", known)
    app.add_post_transform(Names)
    return {"parallel_read_safe": True}
