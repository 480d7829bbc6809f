"""Locks of folders, which end with the processes that hold them, however these end."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError
from ..text import plain

LOCK = ".lock"
_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_TRIES = 5  # to open a file that another machine of a network file system replaces
_PROBE = 0.05  # seconds, longer than `holder_of` takes
_held: set[int] = set()  # descriptors, which forks of this process let go


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int]:
    """Hold the lock of a file, which is made with its folder and stays, empty.

    It is one of the kernel (flock), so a kill ends it. Processes that were started with the
    descriptor among their `pass_fds` hold it as well. A file system without locks is named in a
    warning.

    Args:
        path: the file.
        wait: until others let it go.

    Yields:
        int: its descriptor, -1 where there are no locks.

    Raises:
        ConfigError: another process holds it, and `wait` is not set; or the file may not be opened.
    """
    descriptor = _acquire(path, wait)
    try:
        yield descriptor
    finally:
        if descriptor >= 0:
            _held.discard(descriptor)
            _write(descriptor, "")
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file; also if the file may not be opened."""
    return bool(holder_of(path))


def holder_of(path: Path) -> str:
    """Who holds the lock of a file, "" if nobody does."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except PermissionError:
        return f"a process of {_owner(path)}"
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return "" if error.errno in _UNKNOWN else _said(descriptor)
    finally:
        os.close(descriptor)
    return ""


def has_locks(folder: Path) -> bool:
    """Whether the file system of a folder, in which a file is made, has locks."""
    with locked(folder / LOCK, wait=True) as descriptor:
        return descriptor >= 0


def _acquire(path: Path, wait: bool) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open_to_lock(path)
    try:
        _lock(path, descriptor, wait)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in _UNKNOWN:
            raise
        logging.getLogger(__name__).warning("%s: no locks there (%s).", path, error.strerror)
        return -1
    except BaseException:
        os.close(descriptor)
        raise
    _held.add(descriptor)
    _write(descriptor, f"process {os.getpid()} on {socket.gethostname()}")
    return descriptor


def _lock(path: Path, descriptor: int, wait: bool) -> None:
    """Lock it; a second try tells others from a `holder_of`, which locks it for a moment."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        time.sleep(_PROBE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{path.parent} is in use by {_said(descriptor)}: wait until it ends, or give "
                "another folder."
            ) from None


def _open_to_lock(path: Path) -> int:
    """Open it, to read alone where it is another user's: a lock needs no more."""
    with contextlib.suppress(PermissionError):
        return _open(path, os.O_RDWR | os.O_CREAT)
    try:
        return _open(path, os.O_RDONLY)
    except (PermissionError, FileNotFoundError):
        raise ConfigError(
            f"{path} may not be opened, it is a file of {_owner(path)}: give another folder, or "
            f"let that user type chmod a+rw {path}."
        ) from None


def _open(path: Path, flags: int, tries: int = _TRIES) -> int:
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ESTALE or tries == 1:
            raise
    return _open(path, flags, tries - 1)


def _write(descriptor: int, text: str) -> None:
    """Say who holds it; that helps others, but no lock depends on it."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _said(descriptor: int) -> str:
    with contextlib.suppress(OSError):
        text = plain(os.pread(descriptor, 200, 0).decode(errors="replace"))
        return text or "another process"
    return "another process"


def _owner(path: Path) -> str:
    """The user whose it is, or whose its folder is."""
    for place in (path, path.parent):
        with contextlib.suppress(OSError, KeyError):
            return place.owner()
    return "another user"
