"""One writer at a time: an operating-system lock on `writer.lock`, which the system drops when its holder dies.

The file itself stays (removing a lock file is a race); its text only says who holds or last held it. POSIX systems use
`flock`. Windows uses `msvcrt.locking`, which has not been tested.
"""

import errno
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from salm_index.errors import IndexAccessError, IndexLockedError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = "writer.lock"
POLL_S = 0.02
# Windows locks are mandatory: this byte lies outside the text, so that others can read who holds the lock.
WINDOWS_LOCK_BYTE = 1 << 30
BUSY_ERRNOS = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class WriterLock:
    """Context manager that holds the writer's lock of one index folder.

    Args:
        folder: the index folder; it must exist.
        timeout_s: how long to wait for another writer, in seconds; 0 tries once.

    Raises (on entering):
        IndexLockedError: another writer still holds the lock after `timeout_s`.
        IndexAccessError: the folder cannot be written, or its file system has no locks.
    """

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self.path = folder / LOCK_NAME
        self.timeout_s = timeout_s
        self._file_descriptor = -1

    def __enter__(self) -> "WriterLock":
        try:
            self._file_descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise IndexAccessError(
                f"{self.path}: cannot be opened for writing ({error.strerror}); "
                "adding and removing need write permission on the index folder, searching does not"
            ) from error
        try:
            self._wait()
            self._sign()
        except BaseException:
            os.close(self._file_descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file_descriptor)

    def _wait(self) -> None:
        deadline_s = time.monotonic() + self.timeout_s
        while not self._try_lock():
            if time.monotonic() >= deadline_s:
                raise IndexLockedError(
                    f"{self.path}: {self._holder()} is writing to this index and did not finish within "
                    f"{self.timeout_s:g} s; wait for it, or stop it, and run again (searching works meanwhile)"
                )
            time.sleep(POLL_S)

    def _try_lock(self) -> bool:
        try:
            if fcntl is not None:
                fcntl.flock(self._file_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                import msvcrt

                os.lseek(self._file_descriptor, WINDOWS_LOCK_BYTE, os.SEEK_SET)
                msvcrt.locking(self._file_descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:
            if error.errno in BUSY_ERRNOS:
                return False
            raise IndexAccessError(
                f"{self.path}: this file system refuses locks ({error.strerror}), so two writers could damage the "
                "index; keep the index on a local disk"
            ) from error
        return True

    def _sign(self) -> None:
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.ftruncate(self._file_descriptor, 0)
        os.lseek(self._file_descriptor, 0, os.SEEK_SET)
        os.write(self._file_descriptor, text.encode())

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_text())
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            # The holder may be between taking the lock and signing it.
            return "another process"
