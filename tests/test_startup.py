"""Importing quickly leaves the collector as it was."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedveil import startup


@pytest.fixture(autouse=True)
def thaw() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_the_collector_rests_and_works_again_whatever_happens() -> None:
    with startup.importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), startup.importing():
        importlib.import_module("no_module_of_this_name")
    assert gc.isenabled()
    gc.disable()
    try:
        with startup.importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_only_what_was_imported_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.unfreeze()
    with startup.importing():
        kept = [{}]  # type: ignore[var-annotated]
    assert gc.get_freeze_count() == 0
    assert kept == [{}]
    (tmp_path / "made_for_this_test.py").write_text("held = [[] for _ in range(1000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    with startup.importing():
        importlib.import_module("made_for_this_test")
    assert gc.get_freeze_count() > 1000
    sys.modules.pop("made_for_this_test")
