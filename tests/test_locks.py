"""Locks end with the processes that hold them, and hold where a child goes on."""

import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import threading
import time

import pytest

from d2kd.errors import ConfigError
from d2kd.file_io import holder_of, is_locked, locked

FORK = multiprocessing.get_context("fork")


def test_one_holds_it_and_the_other_is_told_who(tmp_path):
    path = tmp_path / "new" / ".lock"
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
        with pytest.raises(ConfigError, match=rf"new is in use by process {os.getpid()} on .*wait"):
            with locked(path):
                pass
        assert is_locked(path)
    assert not is_locked(path)
    with locked(path):
        pass


def test_of_a_longer_text_of_another_holder_nothing_is_left(tmp_path):
    path = tmp_path / ".lock"
    path.write_text("x" * 150)
    with locked(path):
        assert "x" not in holder_of(path).split(" on ")[0] and "xxx" not in holder_of(path)
    assert path.read_text() == "" and holder_of(path) == ""


def test_a_look_at_it_lets_nobody_fail(tmp_path):
    """`holder_of` holds it shared for a moment, here while another process locks it."""
    path = tmp_path / ".lock"
    path.touch()
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    timer = threading.Timer(0.02, os.close, [descriptor])
    assert not is_locked(path)
    timer.start()
    with locked(path):
        assert is_locked(path)
    timer.join()


def refuse(monkeypatch, number, refused):
    """Let os.open raise for some flags."""
    stock = os.open

    def opened(path, flags, *more):
        if refused(flags):
            raise OSError(number, os.strerror(number), str(path))
        return stock(path, flags, *more)

    monkeypatch.setattr(os, "open", opened)


def test_a_file_of_another_user_is_locked_by_reading(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    path.touch()
    refuse(monkeypatch, errno.EACCES, lambda flags: flags & os.O_RDWR)
    with locked(path):
        assert is_locked(path)
        with pytest.raises(ConfigError, match="in use by another process"), locked(path):
            pass
    assert not is_locked(path)
    refuse(monkeypatch, errno.EACCES, lambda flags: True)
    assert is_locked(path)
    with pytest.raises(ConfigError, match=rf"{path} may not be opened, .* {path.owner()}: give"):
        with locked(path):
            pass


def test_a_stale_file_of_a_network_is_opened_again(tmp_path, monkeypatch):
    tries = []
    refuse(monkeypatch, errno.ESTALE, lambda flags: not tries.append(flags) and len(tries) < 3)
    with locked(tmp_path / ".lock"):
        assert len(tries) == 3


def test_an_error_lets_it_go(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / ".lock"):
        raise KeyError
    with locked(tmp_path / ".lock"):
        pass


def hold(path, ready):
    with locked(path):
        ready.set()
        time.sleep(60)


def test_a_kill_lets_it_go_and_who_waits_gets_it(tmp_path):
    path, ready = tmp_path / ".lock", FORK.Event()
    process = FORK.Process(target=hold, args=(path, ready))
    process.start()
    assert ready.wait(10) and is_locked(path)
    os.kill(process.pid, signal.SIGKILL)
    with locked(path, wait=True) as descriptor:
        assert os.fstat(descriptor).st_ino == path.stat().st_ino
    process.join()


def test_workers_that_are_forks_do_not_hold_it(tmp_path):
    path = tmp_path / ".lock"
    with locked(path):
        worker = FORK.Process(target=time.sleep, args=(60,))
        worker.start()
    with locked(path):
        pass
    worker.kill()
    worker.join()


def start_and_die(path, ready):
    with locked(path) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
        ready.put(child.pid)
        ready.close()
        ready.join_thread()
        os._exit(1)


def test_what_it_was_given_to_goes_on_holding_it(tmp_path):
    path, ready = tmp_path / ".lock", FORK.Queue()
    process = FORK.Process(target=start_and_die, args=(path, ready))
    process.start()
    child = ready.get(timeout=10)
    process.join()
    assert is_locked(path)
    os.kill(child, signal.SIGKILL)
    with locked(path, wait=True):
        pass
