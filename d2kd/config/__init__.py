from .defaults import add_d2kd_config, get_d2kd_cfg
from .keys import changed_keys, flatten
from .loading import (
    load_config,
    merge_config_file,
    merge_options,
    teacher_config,
    without_pretrained,
)
from .locate import resolve_config_file
from .model_zoo import zoo_checkpoint_url, zoo_config_file
from .naming import construct, naming_keys
from .shortcuts import distil, use_data
from .unread import say_unread_keys
from .validate import check_config

__all__ = [
    "add_d2kd_config",
    "changed_keys",
    "check_config",
    "construct",
    "distil",
    "flatten",
    "get_d2kd_cfg",
    "load_config",
    "merge_config_file",
    "merge_options",
    "naming_keys",
    "resolve_config_file",
    "say_unread_keys",
    "teacher_config",
    "use_data",
    "without_pretrained",
    "zoo_checkpoint_url",
    "zoo_config_file",
]
