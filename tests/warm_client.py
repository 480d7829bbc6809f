"""`python -IS warm_client.py SOCKET WORDS`: `python WORDS`, run by the server of `tests/warm.py`.

It runs there in this folder, with this environment, input and output; signals are passed on.
"""

import json
import os
import signal
import socket
import sys

PASSED_ON = signal.SIGINT, signal.SIGTERM
signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
asked = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(link, [len(asked).to_bytes(8, "big")], [0, 1, 2])
link.sendall(asked)
answers = link.makefile("r")
pid = int(answers.readline())
for number in PASSED_ON:
    signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
code = int(answers.readline())
if code < 0:  # as the one there, by a signal
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
