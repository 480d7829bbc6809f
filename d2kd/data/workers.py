"""Worker processes of data loaders."""

import logging

from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n

from ..cores import own_cores


def loader_workers(cfg: CfgNode) -> int:
    """DATALOADER.NUM_WORKERS, or this process's part of the cores where that is less.

    The config, and with it config.yaml and the identity of a result, keeps what was asked for:
    what a loader yields does not depend on the number of its workers.
    """
    asked, cores = cfg.DATALOADER.NUM_WORKERS, own_cores()
    if asked > cores:
        log_first_n(
            logging.INFO,
            f"DATALOADER.NUM_WORKERS is {asked}: data loaders use {cores}, this process's part of "
            "the cores.",
            key="message",
        )
    return min(asked, cores)
