"""Python's audit events that hostile input must not cause, and calls that show that each fires.

A hook of `sys.addaudithook` cannot be taken away, so this runs in a process of its own; see
`tests/faults/every_command.py`.
"""

import ctypes
import os
import pickle
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.conftest import ROOT
from tests.faults.broken import Call

# What reading of our own arrays and records asks an unpickler for.
CLASSES = {("collections", "OrderedDict"), ("_codecs", "encode"), ("numpy", "dtype"),
           ("numpy", "ndarray"), ("detectron2.structures.boxes", "BoxMode"),
           ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
           ("torch", "FloatStorage"), ("torch", "Size")}  # fmt: skip
CLASSES |= {(f"numpy.{core}.multiarray", name) for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")}  # fmt: skip
# Modules that make code of texts of their own: fields of tuples, annotations, literals, templates;
# so do some installed modules while they are imported.
MAKERS = ("collections/__init__.py", "dataclasses.py", "typing.py", "ast.py", "annotationlib.py",
          "jinja2/environment.py")  # fmt: skip
PROGRAMS = "git", "uname", "/bin/sh", "fc-list"
CALLERS = ("d2kd/engine/provenance.py", "platform.py", "detectron2/utils/collect_env.py",
           "matplotlib/font_manager.py")  # fmt: skip
NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
         "pty.spawn", "socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request",
         "http.client.connect", "ftplib.connect", "webbrowser.open")  # fmt: skip
WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link",
          "os.truncate", "shutil.rmtree", "shutil.move", "shutil.copyfile")  # fmt: skip


class Watch:
    """Collects in `found` the events that no part of d2kd needs."""

    def __init__(self, folders):
        """Files are written in these folders alone."""
        self.folders = tuple(os.path.realpath(folder) for folder in folders)
        self.code = tuple(map(os.path.realpath, (ROOT, sys.prefix, sys.base_prefix)))
        self.found, self.on = [], False
        rules = {"pickle.find_class": self.is_class, "subprocess.Popen": self.is_program,
                 "exec": self.is_code, "compile": self.is_source, "open": self.is_open,
                 "ctypes.dlopen": self.is_library}  # fmt: skip
        rules.update(dict.fromkeys(NEVER, lambda *_: False), **dict.fromkeys(WRITES, self.is_here))
        self.rules = rules

    def __call__(self, event, arguments):
        rule = self.rules.get(event) if self.on else None
        if rule is None:
            return
        self.on = False
        try:
            if not rule(*arguments):
                shown = str(arguments[::-1] if event == "compile" else arguments)
                self.found.append(f"{event} {shown[:200]} by {self.caller()}")
        finally:
            self.on = True

    def caller(self):
        """The file that the event comes from, over the ones of the standard library's helpers."""
        frame = sys._getframe(2)
        while frame and os.path.basename(frame.f_code.co_filename) in ("watch.py", "subprocess.py"):
            frame = frame.f_back
        return frame.f_code.co_filename if frame else ""

    def in_import(self):
        """Whether an installed module is being imported, which no text of a user reaches."""
        if self.caller().startswith("<frozen importlib"):
            return True  # a compiled one
        frame = sys._getframe(2)
        while frame and frame.f_code.co_name != "<module>":
            frame = frame.f_back
        above = frame.f_back.f_code.co_filename if frame and frame.f_back else ""
        return above.startswith("<frozen importlib") and self.is_installed(frame.f_code.co_filename)

    def is_class(self, module, name):
        return (module, name) in CLASSES

    def is_program(self, program, *_):
        return os.fsdecode(program) in PROGRAMS and self.caller().endswith(CALLERS)

    def is_installed(self, file):
        return file.startswith("<frozen ") or os.path.realpath(file).startswith(self.code)

    def is_code(self, code):
        return self.is_source(None, code.co_filename)

    def is_source(self, _, file):
        name = os.fsdecode(file or "<string>")
        if self.is_installed(name):
            return True
        return self.caller().endswith(MAKERS) or self.in_import()

    def is_library(self, name):
        return not name or "/" not in str(name) or self.is_installed(str(name))

    def is_open(self, path, mode, flags):
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return not writes or isinstance(path, int) or self.is_here(path)

    def is_here(self, path, *_):
        path = os.path.realpath(os.fsdecode(path)) if not isinstance(path, int) else "/dev/null"
        return path == "/dev/null" or path.startswith(self.folders)


def _fork():
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def controls(outside: Path):
    """Event -> a call that causes it; `outside` is a folder that is not to be written to."""
    nothing, here = "/nowhere", outside / "file"
    return {
        "pickle.find_class": lambda: pickle.loads(pickle.dumps(Call(len, ""))),
        "os.system": lambda: os.system("true"),
        "subprocess.Popen": lambda: subprocess.run(["true"]),
        "os.exec": lambda: os.execv(nothing, ["x"]),
        "os.posix_spawn": lambda: os.posix_spawn(nothing, ["x"], {}),
        "os.fork": _fork,
        "socket.connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
        "socket.getaddrinfo": lambda: socket.getaddrinfo("127.0.0.1", 9),
        "socket.bind": lambda: socket.socket().bind(("127.0.0.1", 0)),
        "urllib.Request": lambda: urllib.request.urlopen("http://127.0.0.1:9"),
        "compile": lambda: compile("1", "<string>", "eval"),
        "exec": lambda: eval("1"),
        "ctypes.dlopen": lambda: ctypes.CDLL("/nowhere/x.so"),
        "open": lambda: here.write_text(""),
        "os.rename": lambda: here.rename(outside / "other"),
        "os.remove": lambda: (outside / "other").unlink(),
        "os.symlink": lambda: here.symlink_to(nothing),
        "os.mkdir": lambda: (outside / "folder").mkdir(),
        "shutil.rmtree": lambda: shutil.rmtree(outside / "folder"),
    }


def silent(watch, outside):
    """The controls whose event the watch does not report."""
    missed = []
    for event, call in controls(outside).items():
        watch.found, watch.on = [], True
        try:
            call()
        except (OSError, ValueError):
            pass
        watch.on = False
        if not any(text.startswith(f"{event} ") for text in watch.found):
            missed.append(event)
    return missed
