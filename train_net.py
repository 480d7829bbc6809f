#!/usr/bin/env python
"""Train, distil, evaluate and resume detectors from yaml configs.

The same command trains a teacher, a plain student and a distilled student; the config decides.
"""

from d2kd.engine.command_line import argument_parser
from d2kd.engine.launch import launch, one_line_errors
from d2kd.engine.main import main
from d2kd.text import make_output_plain

if __name__ == "__main__":
    make_output_plain()
    arguments = argument_parser().parse_args()
    with one_line_errors():
        launch(main, arguments)
