"""Processes of a test that share nothing but files, without their imports' seconds.

They are forks of a server that has imported what a training needs and done nothing else; unlike
forks of the tests' process they have no threads of autograd.
"""

import multiprocessing
import os
import runpy
import sys

import torch
import torch.multiprocessing as mp

import d2kd.engine.main  # noqa: F401
import d2kd.engine.trainer  # noqa: F401
import tests.helpers  # noqa: F401
from tests.conftest import ROOT

CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload([__name__])


def two_ranks(function, *args):
    """`function(rank, *args)` on two of them; raises what one of them does."""
    mp.start_processes(function, args, nprocs=2, start_method="forkserver")


def start_training(*words):
    """`train_net.py WORDS`, its output into nothing."""
    process = CLEAN.Process(target=_script, args=(ROOT / "train_net.py", list(map(str, words))))
    process.start()
    return process


def _script(path, words):
    torch.set_num_threads(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.chdir(ROOT)
    sys.argv = [str(path), *words]
    runpy.run_path(str(path), run_name="__main__")
