"""Which process holds a shard in the making: the name of a file in it, which changes hands by one rename.

The name tells machine, process and the process's start. On its own machine a holder that does not run any more is known
at once. Elsewhere it is known by its silence: a living holder touches the file at regular times. Clocks of different
machines are never compared. Taking over from a holder that lives after all, such as one that was paused, is safe: the
file that it touches before everything it writes is gone, so it stops.
"""

import os
import socket
import time
from pathlib import Path

import psutil

PREFIX = ".claim@"
FREE = PREFIX + "free"
"""A shard in the making that its holder has given back."""
BEAT_S = 30.0
"""Time between two touches: nothing for a file server, even with hundreds of holders."""
SILENT_S = 300.0
"""Silence after which a holder on another machine is taken for dead: ten beats, and longer than the minute for which
network drives keep old times in memory."""
START_TOLERANCE_S = 5.0
"""A process's start is counted from the machine's, which corrections of the clock move a little; a number is given to
another process much later than that."""


def own_claim() -> str:
    """Return the name of a claim of this process."""
    return f"{PREFIX}{socket.gethostname()}@{os.getpid()}@{psutil.Process().create_time():.0f}"


class Watch:
    """What this process has seen of claims: which it has found, and since when they have not changed."""

    def __init__(self, *, silent_s: float = SILENT_S) -> None:
        self._silent_s = silent_s
        self._seen: dict[str, tuple[int, float]] = {}

    def is_abandoned(self, claim: Path) -> bool:
        """Return whether a claim's holder is gone; one on another machine has to be asked about several times.

        Raises:
            FileNotFoundError: The claim has changed hands.
        """
        if claim.name == FREE:
            return True
        host, pid, started = claim.name.removeprefix(PREFIX).rsplit("@", 2)
        if host == socket.gethostname():
            return not _is_running(int(pid), float(started))
        key, touched = str(claim), claim.stat().st_mtime_ns
        before, since = self._seen.setdefault(key, (touched, time.monotonic()))
        if before != touched:
            self._seen[key] = touched, time.monotonic()
            return False
        return time.monotonic() - since > self._silent_s


def claims_of(folder: Path) -> list[Path]:
    """Return the claims in a shard in the making: one, or none if the folder is none of ours."""
    return sorted(folder.glob(f"{PREFIX}*"))


def _is_running(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < START_TOLERANCE_S
    except psutil.NoSuchProcess:
        return False
