from .command_line import argument_parser as argument_parser
from .launch import launch as launch
from .main import main as main
from .trainer import DistillationTrainer as DistillationTrainer
