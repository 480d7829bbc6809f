"""The config keys that d2kd adds, with their defaults."""

from detectron2.config import CfgNode, get_cfg

from ..backbones import add_backbone_config
from ..data import add_data_config
from ..detectors import add_detector_config
from ..heads import DISTILLATION_HEAD_REGISTRY, head_defaults
from ..quantize.parts import LAST
from ..solver import add_solver_config


def add_d2kd_config(cfg: CfgNode) -> None:
    """Add every key of d2kd to a stock config, in place.

    One node `DISTILL.<Head>` is added for each registered head, from the keyword arguments of
    its constructor, so import the file that registers your own head first.

    Args:
        cfg: a config from `detectron2.config.get_cfg`.
    """
    add_detector_config(cfg)
    add_backbone_config(cfg)
    add_solver_config(cfg)
    add_data_config(cfg)
    cfg.MODEL.LAZY_CONFIG = ""  # Detectron2's LazyConfig that a teacher is built from
    cfg.MODEL.CHANNELS_LAST = False  # the trained detector's maps in NHWC memory order
    cfg.DETERMINISTIC = False  # only operators that give the same bits again; on a GPU slower

    cfg.QUANTIZE = CfgNode()  # see `d2kd.quantize`
    cfg.QUANTIZE.ENABLED = False  # train the student to be INT8
    cfg.QUANTIZE.START = 0  # iteration from which its values are rounded
    cfg.QUANTIZE.FLOAT = (LAST,)  # parts that stay float: trunk, pyramid, heads, last convolutions

    cfg.DISTILL = CfgNode()
    cfg.DISTILL.STUDENT = ""  # a meta-architecture, of those that `d2kd detectors` prints
    cfg.DISTILL.HEADS = ()  # names in DISTILLATION_HEAD_REGISTRY
    cfg.DISTILL.SCHEDULE = (0, -1)  # warm-up iterations, last distilled iteration (-1: no end)
    cfg.DISTILL.ASSIGN_WITH = "own"  # own | teacher, whose predictions assign a DDOD's objects
    cfg.DISTILL.INIT_FROM_TEACHER = "none"  # none | neck | neck+head, from teacher 0
    cfg.DISTILL.LR_FACTOR = 1.0  # of the heads' own layers, on top of SOLVER.BASE_LR
    cfg.DISTILL.COMPILE = False  # torch.compile of backbones and dense heads, in place
    cfg.DISTILL.GRADIENT_PERIOD = 0  # log each loss's gradient norm every N iterations (0: never)
    cfg.DISTILL.BALANCE = CfgNode()
    cfg.DISTILL.BALANCE.SHARES = ()  # of the gradient norm, per head or one for each; (): off
    cfg.DISTILL.BALANCE.STEPS = 20  # distilled steps in which the heads' weights are set so
    cfg.DISTILL.BALANCE.PERIOD = 0  # iterations from one later measurement to the next (0: none)
    cfg.DISTILL.BALANCE.BAND = 0.0  # tolerance of the shares, as a part of each (0: none)
    cfg.DISTILL.PICTURES = CfgNode()
    cfg.DISTILL.PICTURES.PERIOD = 0  # draw the heads' maps every N iterations (0: never)
    cfg.DISTILL.PICTURES.IMAGES = 2  # first images of DATASETS.TEST[0] to draw them on
    cfg.DISTILL.TEACHER = CfgNode()
    cfg.DISTILL.TEACHER.CONFIG_FILES = ()  # paths or model-zoo names, one per teacher
    cfg.DISTILL.TEACHER.WEIGHTS = ("",)  # "": the model zoo's, or the config's MODEL.WEIGHTS
    cfg.DISTILL.TEACHER.CLASS_MAP = ()  # pairs (teacher's class, student's) of unlike names
    cfg.DISTILL.TEACHER.SIZE = "student"  # of its images: student | own, resized to what it knows
    cfg.DISTILL.TEACHER.PRECISION = "fp32"  # fp32 | bf16 | fp16 | auto, of the teachers' forward
    cfg.DISTILL.TEACHER.CHANNELS_LAST = False  # the teachers' maps in NHWC memory order
    cfg.DISTILL.TEACHER.AHEAD = 0  # batches that the teachers compute in advance (0: none)
    cfg.DISTILL.TEACHER.DEVICE = ""  # where they do it ("": on that of MODEL.DEVICE)
    cfg.DISTILL.TEACHER.THREADS = 0  # of a teacher's own process (0: as many as of the student's)
    cfg.DISTILL.TEACHER.DEADLINE = 240.0  # seconds in which such a process computes a batch
    cfg.DISTILL.TEACHER.CACHE_DIR = ""  # folder for the teachers' outputs ("": no cache)
    cfg.DISTILL.TEACHER.CACHE_BITS = 32  # 32 | 16, of its numbers; 16 rounds what heads see
    cfg.DISTILL.TEACHER.CACHE_GB = 20.0  # GB (1e9 bytes) that the folder may take
    cfg.DISTILL.TEACHER.CHECK_IMAGES = 0  # test images to evaluate each teacher on before training
    cfg.DISTILL.TEACHER.CHECK_MIN_AP = 0.0  # box AP (0 to 100) under which training does not start
    cfg.DISTILL.TEACHER.CHECK_AGAINST = ""  # folder of a plain run, which each teacher should beat
    cfg.DISTILL.TOKENS = CfgNode()  # see `d2kd.teachers.token_learner`
    cfg.DISTILL.TOKENS.NUMBER = 6  # of MasKD's tokens on each level of the teacher
    cfg.DISTILL.TOKENS.DICE = 1.0  # weight of the overlap of their masks
    for name, head in sorted(DISTILLATION_HEAD_REGISTRY):
        node = CfgNode({"WEIGHT": head.default_weight, "TEACHER": 0})
        node.update({key.upper(): value for key, value in head_defaults(head).items()})
        cfg.DISTILL[name] = node


def get_d2kd_cfg() -> CfgNode:
    """Return Detectron2's default config with d2kd's keys."""
    cfg = get_cfg()
    add_d2kd_config(cfg)
    return cfg
