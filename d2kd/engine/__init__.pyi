from .launch import launch as launch
from .main import argument_parser as argument_parser
from .main import main as main
from .trainer import DistillationTrainer as DistillationTrainer
