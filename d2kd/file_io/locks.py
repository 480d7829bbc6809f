"""Locks of folders, which end with the processes that hold them, however these end."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError
from ..text import plain

LOCK = ".lock"
_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_held: set[int] = set()  # descriptors, which forks of this process let go


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int]:
    """Hold the lock of a file, which is there meanwhile; its folder is made.

    It is one of the kernel (flock), so nothing is left of it after a kill. Processes that were
    started with the descriptor among their `pass_fds` hold it as well. A file system without
    locks is said once in a warning.

    Args:
        path: the file.
        wait: until others let it go.

    Yields:
        int: its descriptor, -1 where there are no locks.

    Raises:
        ConfigError: another process holds it, and `wait` is not set.
    """
    descriptor = _acquire(path, wait)
    try:
        yield descriptor
    finally:
        if descriptor >= 0:
            _held.discard(descriptor)
            path.unlink(missing_ok=True)
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _UNKNOWN
    finally:
        os.close(descriptor)
    return False


def _acquire(path: Path, wait: bool) -> int:
    """Open and lock until what is locked is what lies there: its last holder removes the file."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = plain(os.read(descriptor, 200).decode(errors="replace")) or "another process"
            os.close(descriptor)
            raise ConfigError(
                f"{path.parent} is in use by {holder}: wait until it ends, or give another folder."
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _UNKNOWN:
                raise
            logging.getLogger(__name__).warning("%s: no locks there (%s).", path, error.strerror)
            return -1
        if _is_there(path, descriptor):
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            _held.add(descriptor)
            return descriptor
        os.close(descriptor)


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (found.st_ino, found.st_dev) == (mine.st_ino, mine.st_dev)
