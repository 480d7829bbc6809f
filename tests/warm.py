"""A `python` whose imports are done, for what starts `sys.executable` and is no test of the start.

What it runs are forks of a server that is itself a process of `tests.ranks`: it has imported what a
training needs and done nothing else.
"""

import contextlib
import json
import multiprocessing
import os
import runpy
import shlex
import socket
import sys
import warnings
from multiprocessing.connection import wait

import torch

from tests.conftest import ROOT
from tests.ranks import METHOD

NAME = "D2KD_TESTS_PYTHON"  # sys.executable of what runs there
CLIENT = ROOT / "tests" / "warm_client.py"
FORK = multiprocessing.get_context("fork")


def write_program(folder):
    """A file to run in place of `sys.executable`, whose server listens in this folder."""
    words = shlex.join([sys.executable, "-IS", str(CLIENT), str(folder / "socket")])
    (folder / "python").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (folder / "python").chmod(0o755)
    return str(folder / "python")


def serve(address, ready):
    """Run what clients ask for, until the process ends that started this one."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    ready.set()
    starter, running = multiprocessing.parent_process().sentinel, {}
    while True:
        links = {link: process for process, link in running.values()}
        for found in wait([starter, listener, *running, *links]):
            if found == starter:
                return
            if found is listener:
                with contextlib.suppress(OSError, ValueError):  # its client was killed already
                    process, link = _begin(listener.accept()[0])
                    running[process.sentinel] = process, link
            elif found in running:
                _end(*running.pop(found))
            else:
                links[found].kill()  # as its client was


def _begin(link):
    size, files, *_ = socket.recv_fds(link, 8, 3)
    asked = link.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
    process = FORK.Process(target=_main, args=(*json.loads(asked), files))
    process.start()
    for file in files:
        os.close(file)
    try:
        link.sendall(f"{process.pid}\n".encode())
    except OSError:
        process.kill()
        raise
    return process, link


def _end(process, link):
    process.join()
    with link, contextlib.suppress(OSError):
        link.sendall(f"{process.exitcode}\n".encode())


def _main(words, folder, environment, files):
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    multiprocessing.set_start_method(METHOD, force=True)
    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.executable = environment.get(NAME, sys.executable)
    while words[0] in ("-W", "-u"):
        if words[0] == "-W":
            warnings.simplefilter(words.pop(1))
        words = words[1:]
    if words[0] == "-c":
        sys.argv = words[1:]
        exec(words[1], {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, folder)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")
