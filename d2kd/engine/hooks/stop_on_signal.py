"""What ends a training early with a checkpoint: SIGTERM, SIGINT, and a teacher that is lost."""

import logging
import os
import signal
import socket
import threading
import time
from typing import Any, Callable, Dict

from detectron2.engine import HookBase
from detectron2.utils import comm

from ...errors import RunError
from .exact_resume import ExactResume

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ONE = 1.0  # seconds in which signals are one, as from a terminal and from a parent process
_GRACE = 45.0  # seconds; a rank that waits for a dead one does not come to the end of its step


class StopOnSignal(HookBase):
    """Ends the step that runs, writes a checkpoint and exits with 128 + the signal's number.

    That is 143 for SIGTERM and 130 for SIGINT. All ranks stop after the same step if one of them
    gets the signal. Another one more than a second later, or a step that does not end in 45
    seconds, exits without a checkpoint. So do they stop, with an error, where a rank cannot go on.
    Put it behind all other hooks.
    """

    def __init__(self, resume: ExactResume, lost: Callable[[], str] = lambda: "") -> None:
        """Set when to stop.

        Args:
            resume: knows what else a checkpoint needs.
            lost: why this rank cannot go on; "" if it can.
        """
        self._resume, self._lost, self._signal, self._since = resume, lost, 0, 0.0
        self._previous: Dict[int, Any] = {}

    def before_train(self) -> None:
        """Take over the signals; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_exit_late, args=(reader,), daemon=True).start()

    def after_step(self) -> None:
        """Write the checkpoint and exit, if a rank has got a signal or cannot go on.

        Raises:
            SystemExit: with 128 + the signal's number.
            RunError: a rank cannot go on.
        """
        number, lost = map(max, zip(*comm.all_gather((self._signal, self._lost())), strict=True))
        done = self.trainer.iter + 1
        if not (number or lost) or done >= self.trainer.max_iter:
            return
        self._resume.gather()
        name = f"model_{self.trainer.iter:07d}"
        self.trainer.checkpointer.save(name, iteration=self.trainer.iter)
        if not number:
            raise RunError(
                f"Stopped after {done} of {self.trainer.max_iter} iterations with the checkpoint "
                f"{name}.pth, --resume goes on: {lost}."
            )
        logging.getLogger(__name__).warning(
            "%s: stopped after %d of %d iterations with the checkpoint %s.pth; --resume goes on.",
            signal.Signals(number).name, done, self.trainer.max_iter, name,
        )  # fmt: skip
        raise SystemExit(128 + number)

    def after_train(self) -> None:
        """Give the signals back."""
        if self._previous:
            signal.set_wakeup_fd(self._wakeup)
            self._writer.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, _frame: Any) -> None:
        if not self._signal:
            self._signal, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > _ONE:
            raise SystemExit(128 + number)


def _exit_late(reader: socket.socket) -> None:
    """Exit the process `_GRACE` seconds after a signal, unless the other end is closed by then.

    Python's handlers wait for the main thread, which may hang in a collective call; this does not.
    """
    number = 0
    while number not in _SIGNALS:
        data = reader.recv(1)
        if not data:
            return
        number = data[0]
    reader.settimeout(_GRACE)
    try:
        while reader.recv(1):
            pass
    except TimeoutError:
        os.write(2, b"The step did not end after the signal: exit without a checkpoint.\n")
        os._exit(128 + number)
