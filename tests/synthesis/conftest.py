"""A small exact generator, for tests of what is drawn from one."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for `fake`, which these tests share
