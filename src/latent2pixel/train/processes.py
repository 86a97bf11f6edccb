"""The processes of a run: one, or several that torchrun or `accelerate launch` has started."""

from datetime import timedelta

import torch
from accelerate import PartialState

PROCESS_TIMEOUT = timedelta(hours=2)
"""Other processes wait while the first one encodes or validates: for large models longer than torch's 10 minutes."""


def processes() -> PartialState:
    """Return this process's place among those of the run; all of them meet when it is asked for the first time."""
    # accelerate lets processes meet on CPUs only when told that there is nothing else.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=PROCESS_TIMEOUT)
