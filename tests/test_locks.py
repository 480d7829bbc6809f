"""Locks end with the processes that hold them, and hold where a child goes on."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from d2kd.errors import ConfigError
from d2kd.file_io import is_locked, locked

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
    assert not path.exists() and not is_locked(path)
    with locked(path):
        pass


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
