"""An owner's node: what it would answer, and how its vault is kept.

One file here is one action, or some that belong together; `ACTIONS` names them.
"""

from __future__ import annotations

import argparse

from fedveil.commands.node import checking, keeping, page, pruning, start
from fedveil.commands.node.checking import wire_of as wire_of

EXAMPLES = """examples:
  fedveil node check node.toml --config app/         # the run of a bundle
  fedveil node check node.toml --config config.json  # a complete configuration
  fedveil node check node.toml study=quick           # a configuration by words
  fedveil node start node.toml --superlink HOST:PORT --root-certificates ca.crt
  fedveil node page node.toml --html owner.html      # asked, spent, left
  fedveil node backup node.toml vault.fvb            # one file, a passphrase
  fedveil node restore vault.fvb node.toml           # an older state is refused
  fedveil node adopt node.toml --forgotten           # or go on, the loss booked
  fedveil node prune node.toml --older-than 90d      # class centres and copies
`fedveil node ACTION --help` lists an action's options.
Exit status of check 0: the node would take part; 1: it would refuse.
"""

ACTIONS = {
    "check": (checking.arguments, checking.run, "what the node would answer to a run; nothing is written"),
    "start": (start.arguments, start.run, "run Flower's SuperNode; no code that a coordinator sends is started"),
    "page": (page.arguments, page.run, "what was asked, accepted, refused and spent, and what is left"),
    "backup": (keeping.saving, keeping.save, "write the vault to one file under a passphrase"),
    "restore": (keeping.restoring, keeping.restore, "make the vault from such a file"),
    "adopt": (keeping.adopting, keeping.adopt, "go on with a vault that is not known to be its newest state"),
    "prune": (pruning.arguments, pruning.run, "remove class centres and noisy copies of runs that have ended"),
}
"""Action -> what adds its arguments, what runs it, and what it does."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's actions, each with its own arguments."""
    listed = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (arguments_of, _, about) in ACTIONS.items():
        made = listed.add_parser(name, help=about, description=about)
        arguments_of(made)
        made.set_defaults(parser=made)


def run(chosen: argparse.Namespace) -> int:
    """Do what the action says."""
    return ACTIONS[chosen.action][1](chosen)
