"""Whose faces a set tells of: those a generator learns from, and all others that are read beside it.

A guarantee of a generator's training holds for what is computed from the generator alone. Faces that are read beside it
(anchors near them are refused, a threshold comes from them) are inputs of the set as well, and a recogniser that says
who somebody is has learnt from somebody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedveil import checks
from fedveil.data import provenance
from fedveil.federation import synthetic
from fedveil.federation.federation import Federation
from fedveil.synthesis.checkpoint import Origin

if TYPE_CHECKING:
    from fedveil.synthesis.making import Making


def origin(federation: Federation, making: Making) -> Origin:
    """Return whose faces the data are, and so whose a new generator would learn from.

    Raises:
        fedveil.checks.UserError: nobody declared them public, and nobody said that they may be shared; or a recogniser
            of whose training nobody says so.
    """
    found = _of_data(federation, making)
    if making.recogniser is None or making.generator is not None or making.recogniser_is_public:
        return found
    if making.shared:
        return Origin("shared", _short(f"{found.learnt_from}; and whoever the recogniser learnt from"))
    raise checks.UserError(
        f"The recogniser of {making.recogniser} goes into the generator, and whoever it learnt from is in every face. "
        "Say synthesis.recogniser_is_public=true if it learnt from public faces alone, or leave synthesis.recogniser "
        "out: one learns from the data's people. synthesis.shared=true makes a set without a guarantee of it."
    )


def _of_data(federation: Federation, making: Making) -> Origin:
    name = federation.settings.data.name
    if name == synthetic.NAME:  # what its file says goes before anybody's word
        made = provenance.of_file(str(federation.settings.data.settings["path"]), "data.path")
        if made.mode == "public" or (made.mode == "federated" and made.is_public and making.generator is None):
            return Origin(made.mode, _short(f"synthetic faces of {made.learnt_from}"), (*map(dict, made.statements),))
        if making.shared:
            return Origin("shared", _short(f"synthetic faces of {made.learnt_from}"))
        raise checks.UserError(
            f"The faces of data=synthetic are of a {made.mode} generator, whose leak is no smaller in faces that are "
            "made anew. Read public people, or say synthesis.shared=true if showing them without a guarantee is meant."
        )
    if federation.split.public_benchmark or making.public:
        return Origin("public", f"people of data={name}, whose pictures are public")
    if making.shared:
        return Origin("shared", f"people of data={name}, whose owner shares what was learnt of them")
    if making.generator is not None:
        raise checks.UserError(
            f"Nobody declared the people of data={name} public, and a set is drawn beside them: anchors near their "
            "faces are refused and numbers of them are told, which the generator's guarantee does not cover. Name "
            "public people (data=lfw, or synthesis.public=true if these are), or say synthesis.shared=true if showing "
            "them is meant."
        )
    raise checks.UserError(
        f"Nobody declared the people of data={name} public, and a generator hands out what they look like: epsilon is "
        "infinite. Say synthesis.public=true if their pictures are public; train it among owners under a budget "
        "(fedveil simulate generator=id3 privacy.identity.epsilon=8); or say synthesis.shared=true if showing them is "
        "meant."
    )


def together(generator: Origin, beside: Origin) -> Origin:
    """Return whose faces a set of a finished generator tells of, where it is drawn beside other faces.

    Public faces add nothing. Private ones that are shared leave nothing of a guarantee.
    """
    if beside.mode == "public":
        return generator
    return Origin("shared", _short(f"{generator.learnt_from}; beside {beside.learnt_from}"))


def _short(words: str) -> str:
    return words if len(words) <= provenance.LONGEST else f"{words[: provenance.LONGEST - 3]}..."
