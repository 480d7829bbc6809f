"""What a file or folder is, from its first bytes and names; nothing is unpickled or executed."""

import os
import re
import zipfile
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError
from ..text import plain
from .untrusted import read_head

_HEAD, _PICKLE, _MOST = 2**16, 2**20, 1_000  # bytes, bytes, names of a folder


class Kind(NamedTuple):
    """A kind: its group, what to call it, and which option or command takes it."""

    group: str
    what: str
    use: str


_UNPACK = "unpack it, and name what is in it"
_EXPORT = "no command takes it: export the labels as COCO in the labelling tool"
_TORCH = "no command takes it: weights of PyTorch are needed"
_SOURCE = ("d2kd eval FILE measures it, if d2kd export wrote it; others take no such file: "
           "give the checkpoint or the run that it was exported from")  # fmt: skip

CONFIG = Kind("config", "a config", "name it as CONFIG, as in d2kd train CONFIG, or with --teacher")
RUN = Kind("run", "the folder of a run", "name it as CONFIG, as in d2kd eval CONFIG, with "
           "--teacher, or in d2kd report")  # fmt: skip
WEIGHTS = Kind(
    "weights",
    "a file of weights",
    "give it with --weights, a teacher's with --teacher-weights, what to start from with "
    "MODEL.WEIGHTS, beside a config",
)
_MMDET = Kind("mmdet", "a checkpoint of mmdetection",
              "d2kd convert mmdet FILE FOLDER writes a config and weights of it")  # fmt: skip
_ULTRALYTICS = Kind("", "a model of Ultralytics", "no command takes it, since reading it runs code")
_DATA = Kind("data", "the folder of a data set", "give it with --data, or to d2kd distill")
_IMAGES = Kind("images", "a folder of images without labels",
               "d2kd predict draws on them, --unlabelled distils on them as well")  # fmt: skip
_IMAGE = Kind("image", "an image", "d2kd predict CONFIG FILE draws on it")
_LAZY = "a lazy config of Detectron2"
LAZY_YAML = Kind("config", _LAZY, "give it, or the folder of its run, with --teacher; d2kd eval "
                 "and predict take the folder too")  # fmt: skip
_COCO = Kind("data", "a COCO json file", "give the folder of it and its images with --data")

_BYTES = (
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!",
     Kind("", "an archive (gzip, bzip2, xz, zstd, 7z or rar) and so is compressed", _UNPACK)),
    (rb".{257}ustar", Kind("", "a tar archive", _UNPACK)),
    (rb"\xff\xd8\xff|\x89PNG|GIF8|BM.{4}\0{4}|RIFF.{4}WEBP|II\*\0|MM\0\*|.{4}ftyp(avif|hei|mif1)",
     _IMAGE),
    (rb".{4}ftyp|RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01\xba|FLV\x01",
     Kind("video", "a video", "d2kd predict CONFIG FILE draws on it")),
    (rb"\x89HDF", Kind("", "an HDF5 file, as Keras writes them", _TORCH)),
    (rb"TFL3|.{4}TFL3", Kind("", "a TensorFlow Lite graph", _TORCH)),
    (rb"GGUF", Kind("", "a GGUF file", _TORCH)),
    (rb"\x08[\x01-\x20]\x12.{1,64}(\x1a|\x22|:)", Kind("", "an ONNX graph", _SOURCE)),
    (rb"\x93NUMPY", Kind("", "an array of NumPy", "no command takes it: give tensors by name")),
    (rb".{4}\0{4}\{", WEIGHTS),  # safetensors
)  # fmt: skip

_TEXTS = (
    (r"version https://git-lfs", Kind("", "a pointer of Git LFS", "git lfs pull fetches the file")),
    (r"\s*(<\?xml[^>]*>\s*)?<annotation>", Kind("data", "an annotation in VOC's format, of one "
     "image", "give the folder of all to d2kd distill, or to d2kd convert voc")),
    (r"\s*(<\?xml[^>]*>\s*)?<annotations>", Kind("", "a CVAT xml", _EXPORT)),
    (r"\s*<(?i:!doctype|html|\?xml|head)", Kind("", "a web page", "download the file behind the "
     "link")),
    (r"(?s:.*)^\s+_target_:", LAZY_YAML),
    (r"(?s:.*)(LazyCall|LazyConfig)", Kind("python", _LAZY, "it is executed, so --teacher takes "
     "it where --trust-config names it too")),
    (r"(?s:.*)^(model|_base_|train_pipeline|dataset_type) *= *[\[\w'\"]", Kind("python",
     "a config of mmdetection", "give it with d2kd convert mmdet CHECKPOINT FOLDER --config FILE")),
    (r"(?s:.*)^(from [\w.]+ import|import [\w.]+|def \w+\(|class \w+)", Kind("python",
     "a Python file", "--import runs it, where it registers detectors, heads or data sets")),
    (r"\s*[{\[](?s:.*)\"(shapes|imagePath|label_config)\"", Kind("", "a file of LabelMe or another "
     "labelling tool", _EXPORT)),
    (r"\s*\[\s*\{[^}]*\"image_id\"", Kind("", "a list of detections in COCO's format",
     "no command takes it: d2kd eval measures weights")),
    (r"\s*\{(?s:.*)\"(images|annotations|categories)\"\s*:\s*\[", _COCO),
    (r"\s*\{(?s:.*)\"(iteration|iterations|first_iteration|best_f1)\"", Kind("", "a file of a run",
     "name the run's folder")),
    (r"\s*\{(?s:.*)\"(architectures|model_type)\"", Kind("", "the config of a Hugging Face model",
     "name its folder, --teacher hf:FOLDER")),
    (r"\s*[{\[]\s*[\"{\[]", Kind("", "a JSON text", "no command takes it as it is")),
    (r"\d+( [\d.]+){4,}\s", Kind("data", "a label file of YOLO, of one image",
     "give the folder of all to d2kd distill")),
    (r"[^\n,:#]*(,[^\n,:#]*){3,}\n", Kind("", "a table (csv)", _EXPORT)),
)  # fmt: skip

_YAMLS = (
    ({"seeds", "rows"}, Kind("study", "the plan of a study", "d2kd study FILE runs it")),
    ({"output", "models"}, Kind("robustness", "a robustness plan", "d2kd robustness FILE runs it")),
    ({"asked", "stages"}, Kind("", "the plan of d2kd distill", "type that command again")),
    ({"backbone", "head"}, Kind("", "the config of a YOLO model", "no command takes it: name a "
     "detector of d2kd, such as own/student.yaml")),
    ({"names"}, Kind("yolo", "the data.yaml of a YOLO data set", "d2kd distill takes its folder, "
     "d2kd convert yolo FILE FOLDER converts it")),
)  # fmt: skip

_FOLDERS = (
    ({"finished.yaml"}, Kind("", "what d2kd distill wrote", "name a run in it: its folder "
     "distilled, teacher or plain")),
    ({"run.json"}, RUN),
    ({"last_checkpoint"}, RUN),
    ({"metrics.json"}, RUN),
    ({"saved_model.pb"}, Kind("", "a model of TensorFlow", _TORCH)),
    ({"config.json", "model.safetensors"}, Kind("", "the folder of a Hugging Face model",
     "a detector goes with --teacher hf:FOLDER, timm's model.safetensors into "
     "MODEL.TIMM.CHECKPOINT")),
)  # fmt: skip


def kind_of(path: str | Path) -> Kind | None:
    """What a file or folder is; None where it does not exist, or is of no kind that is known."""
    if os.path.isdir(path):
        return _kind_of_folder(Path(path))
    head = read_head(Path(path), _HEAD)
    if head[:2] == b"PK":
        return _kind_of_zip(path)
    if re.match(rb"\x80[\x02-\x05]", head):
        return _kind_of_pickle(head)
    for pattern, kind in _BYTES:
        if re.match(pattern, head, re.DOTALL):
            return kind
    return None if b"\0" in head else _kind_of_text(head.decode("utf-8", "ignore"))


def told(path: str | Path) -> str:
    """A sentence to add to an error about a file or folder that does not fit; maybe empty."""
    kind = kind_of(path)
    return f" It is {kind.what}: {kind.use}." if kind else ""


def expect(path: str | Path, key: str, *groups: str) -> None:
    """Refuse a file that is recognised as of another group; what is not recognised passes.

    Args:
        path: of a file, or of what does not exist.
        key: the option or argument that names it.
        groups: of kinds that belong there.

    Raises:
        ConfigError: what it is, and which option or command takes it.
    """
    kind = None if os.path.isdir(path) and "run" in groups else kind_of(path)
    if kind and kind.group not in groups:
        raise ConfigError(f"{key}: {plain(path)} is {kind.what}: {kind.use}.")


def _kind_of_zip(path: str | Path) -> Kind | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                return Kind("program", "a TorchScript program", "save its state dict")
            if pickles := [name for name in names if name.endswith("/data.pkl")]:
                return _kind_of_pickle(archive.open(pickles[0]).read(_PICKLE))
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, ValueError, EOFError):
        return None  # damaged
    if {Path(name).name for name in names} & {"archive_format", "models.json", "model.json"}:
        return Kind("", "a program of torch.export", _SOURCE)
    return Kind("", "a zip archive of other things than weights", _UNPACK)


def _kind_of_pickle(data: bytes) -> Kind:
    if re.search(rb"c(ultralytics\.|models\.(yolo|common)\n)", data):
        return _ULTRALYTICS
    return _MMDET if re.search(rb"(?s)state_dict.*X.\0{3}(bbox|roi|rpn)_head\.", data) else WEIGHTS


def _kind_of_text(text: str) -> Kind | None:
    for pattern, kind in _TEXTS:
        if re.match(pattern, text, re.MULTILINE):
            return kind
    keys = set(re.findall(r"^['\"]?([\w.-]+)['\"]? *:", text, re.MULTILINE))
    if any(key.isupper() for key in keys):
        return CONFIG
    return next((kind for needed, kind in _YAMLS if needed <= keys), None)


def _kind_of_folder(folder: Path) -> Kind | None:
    try:
        paths = list(islice(folder.iterdir(), _MOST))
    except OSError:
        return None
    names = {path.name for path in paths}
    if kind := next((kind for needed, kind in _FOLDERS if needed <= names), None):
        return kind
    folders = (path for path in paths[:20] if os.path.isdir(path))  # glob passes over unreadable
    near = [*paths[:20], *(x for path in folders for x in islice(path.glob("*"), 20))]
    found = {kind.group for x in near if os.path.isfile(x) and (kind := kind_of(x))}
    return _DATA if found & {"data", "yolo"} else _IMAGES if "image" in found else None
