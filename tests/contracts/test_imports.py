"""The numerical core runs without Flower, MLflow, Opacus, Ray and without either side of the federation."""

from __future__ import annotations

import json
import subprocess
import sys

# Loaded by name where they are used, never at import time by the core.
BLOCKED = ("flwr", "mlflow", "opacus", "ray", "fedveil_clients", "fedveil_strategies", "matplotlib")
# The only modules that may need more to be imported: Flower's Grids are classes of Flower, kernels are Triton's.
MAY_NEED = ("fedveil.engine", "fedveil.models.backbones._kernels")

SCRIPT = f"""
import importlib, json, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
        return None

sys.meta_path.insert(0, Blocker())
import fedveil

names = [found.name for found in pkgutil.walk_packages(fedveil.__path__, "fedveil.", onerror=lambda name: None)]
core = [name for name in names if not name.startswith({MAY_NEED!r}) and not name.endswith("__main__")]
broken = {{}}
for name in core:
    try:
        importlib.import_module(name)
    except ImportError as error:
        broken[name] = str(error)
print(json.dumps({{"imported": core, "broken": broken}}))
"""


def test_the_core_imports_without_the_federation_and_without_heavy_libraries() -> None:
    shown = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    result = json.loads(shown.stdout.splitlines()[-1])
    assert result["broken"] == {}
    assert {"fedveil.config", "fedveil.privacy.events", "fedveil.tracking"} <= {*result["imported"]}


def test_the_blocker_does_block() -> None:
    script = SCRIPT.replace("import fedveil\n", "import fedveil, flwr\n")
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.returncode != 0
    assert "flwr is blocked" in shown.stderr


def test_a_command_starts_without_what_few_runs_need() -> None:
    late = ["dp_accounting", "scipy.signal", "scipy.special", "scipy.stats", "matplotlib", "mlflow"]
    script = f"import sys, fedveil.commands.simulate; print([name for name in {late!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
