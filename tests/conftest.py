"""What every test starts from: one thread, as the engines have it. Results then depend on the arguments alone."""

from __future__ import annotations

import torch

# Small backward passes in several threads have ended the interpreter on some processors and builds of torch.
torch.set_num_threads(1)
