"""Processes of a test that share nothing but files, without their imports' seconds.

They are forks of a server that has imported what a training needs and done nothing else; unlike
forks of the tests' process they have no threads of autograd.
"""

import multiprocessing
import os
import runpy
import sys
from concurrent.futures import ProcessPoolExecutor

import torch
import torch.multiprocessing as mp

import d2kd.engine.main  # noqa: F401
import d2kd.engine.trainer  # noqa: F401
import tests.helpers  # noqa: F401
from tests.conftest import ROOT

METHOD = multiprocessing.get_start_method()  # of a Python that has just begun
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload([__name__])


def two_ranks(function, *args):
    """`function(rank, *args)` on two of them; raises what one of them does."""
    mp.start_processes(function, args, nprocs=2, start_method="forkserver")


def start_training(*words, output=os.devnull):
    """`python train_net.py WORDS`, what it prints into a file."""
    return _start(runpy.run_path, str(ROOT / "train_net.py"), words, output)


def start_d2kd(*words, output=os.devnull):
    """`python -m d2kd WORDS`, what it prints into a file."""
    return _start(runpy.run_module, "d2kd", words, output)


def run_d2kd(*words, output):
    """`python -m d2kd WORDS` to its end, what it prints into a file; its exit code."""
    process = start_d2kd(*words, output=output)
    process.join()
    return process.exitcode


def _start(run, name, words, output):
    args = run, name, list(map(str, words)), output, dict(os.environ)
    process = CLEAN.Process(target=_main, args=args)
    process.start()
    return process


def _main(run, name, words, output, environment):
    multiprocessing.set_start_method(METHOD, force=True)
    os.setsid()  # what it starts can be killed with it
    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(environment)
    with open(output, "a") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.argv = [name, *words]
    run(name, run_name="__main__")


def in_process(function, *args):
    """`function(*args)` in one; raises what it does."""
    with ProcessPoolExecutor(1, mp_context=CLEAN) as pool:
        return pool.submit(function, *args).result()
