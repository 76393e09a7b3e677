"""The peak memory of a process, as Linux counts it.

`peak_memory_bytes` is the largest resident set (VmHWM), in which pages of mapped files count while they are in memory,
whoever else uses them; `peak_private_bytes` is the largest part of it that is the process's own (RssAnon).
"""

import resource
import threading
from pathlib import Path

EVERY_S = 0.05
STATUS = Path("/proc/self/status")


class PeakMemory:
    """Watches the memory of this process from now on."""

    def __init__(self) -> None:
        self._is_watched = STATUS.exists()
        self._private_bytes = 0
        self._stop = threading.Event()
        if self._is_watched:
            threading.Thread(target=self._watch, daemon=True).start()

    def resident_bytes(self) -> int | None:
        """What is in memory now."""
        return status_bytes("VmRSS") if self._is_watched else None

    def measured(self, prefix: str) -> dict[str, int | None]:
        """The two peaks; outside Linux the first alone, which there may hold that of the parent process."""
        self._stop.set()
        if not self._is_watched:
            peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return {f"{prefix}peak_memory_bytes": peak_bytes, f"{prefix}peak_private_bytes": None}
        # Not ru_maxrss: a new process inherits its parent's.
        return {
            f"{prefix}peak_memory_bytes": status_bytes("VmHWM"),
            f"{prefix}peak_private_bytes": max(self._private_bytes, status_bytes("RssAnon")),
        }

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._private_bytes = max(self._private_bytes, status_bytes("RssAnon"))


def status_bytes(name: str) -> int:
    """A field of this process's status, in bytes."""
    lines = STATUS.read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
