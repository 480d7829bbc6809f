"""What the methods of a config look at, as PNG files."""

from pathlib import Path
from typing import Iterator, Sequence

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..config import check_config, naming_keys, say_unread_keys
from ..config.loading import with_plain_teachers
from ..data import register_custom_datasets
from ..data.catalog import require_registered
from ..distiller import Distiller
from ..errors import ConfigError
from ..inference.distillation_maps import draw_batch, picture_batch
from ..quantize import load_known, quantize_student


def write_maps(
    cfg: CfgNode, weights: Sequence[str], output: Path, images: int = 2
) -> Iterator[Path]:
    """Draw the maps of the heads on the first images of DATASETS.TEST[0].

    Args:
        cfg: a config that distils.
        weights: checkpoints of one student, a set of pictures each; MODEL.WEIGHTS if empty.
        output: folder of the files, one an image and a checkpoint.
        images: how many.

    Yields:
        Path: each file that was written.

    Raises:
        ConfigError: `cfg` does not distil, or none of its methods has maps.
    """
    if cfg.MODEL.META_ARCHITECTURE != "Distiller":
        raise ConfigError(
            "CONFIG does not distil, so it has no methods whose maps could be drawn: give the "
            "config or the run's folder of a distilled student."
        )
    cfg.OUTPUT_DIR = str(output)
    check_config(cfg)
    say_unread_keys(cfg)
    with_plain_teachers(cfg)
    register_custom_datasets(cfg)
    require_registered(cfg, "TEST")
    with naming_keys(cfg, "MODEL or DISTILL"):
        distiller: Distiller = build_model(cfg)
        quantize_student(distiller.student, cfg)
    batch = picture_batch(cfg, images)
    for number, file in enumerate(weights or [cfg.MODEL.WEIGHTS]):
        load_known(distiller, file, distillation=distiller.heads)
        figures = draw_batch(distiller, batch)
        if not figures:
            raise ConfigError(f"None of DISTILL.HEADS {tuple(cfg.DISTILL.HEADS)} has maps to draw.")
        output.mkdir(parents=True, exist_ok=True)
        for index, figure in enumerate(figures):
            path = output / f"image{index}_weights{number}.png"
            figure.savefig(path)
            yield path
