"""``generate_shard`` as a step of a datatrove pipeline. Imports datatrove: ``executors`` tells what to install."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from multiprocess import current_process

MAX_STARTS = 4
"""Starts of one rank's process: datatrove's own executors start a killed task four times as well."""
ASKED_TO_STOP = (-signal.SIGTERM, -signal.SIGINT)
"""Ends that somebody wanted."""


class ShardStep(PipelineStep):
    """One rank's share of the images, made by a process of its own.

    The executors run steps in a pool of processes, which waits for ever for one that was killed, and are told of errors
    by pickling them. A process of its own can be killed, such as for want of memory, and started again; what it says
    goes to a file.

    Args:
        task: Saved ``ImageTask``.
        logs: Receives one file a rank.
        raises: Raise for a share that was not made, as a queue has to see it; otherwise that is for the caller to find.
    """

    type = "latent2pixel"
    name = "images"

    def __init__(self, task: Path, logs: Path, *, raises: bool = False) -> None:
        super().__init__()
        self.task, self.logs, self.raises = str(task), str(logs), raises

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Make the share, starting again where the process was killed.

        Raises:
            RuntimeError: The share was not made, and ``raises`` was asked for.
        """
        starters = [os.getpid()]
        if current_process().daemon:  # one of a pool, which would outlive its starter until its work is done
            starters.append(os.getppid())
        program = [sys.executable, "-m", "latent2pixel.data.generate_shard"]
        command = [*program, self.task, *map(str, (rank, world_size, *starters))]
        with log_of(Path(self.logs), rank).open("wb") as log:
            for _ in range(MAX_STARTS):
                ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
                # Below 0: the number of the signal that ended it.
                if ended.returncode >= 0 or ended.returncode in ASKED_TO_STOP:
                    break
                self.stat_update("killed")
        self.stat_update("failed" if ended.returncode else "done")
        if ended.returncode and self.raises:
            raise RuntimeError(f"rank {rank} ended with {ended.returncode}; see {log.name}")
        return data


def log_of(logs: Path, rank: int) -> Path:
    """Return the file that a rank's process writes to."""
    return logs / f"rank-{rank:05d}.log"
