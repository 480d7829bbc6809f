"""What a file that was given as weights is instead, from its first bytes."""

import os
import re

_KINDS = (
    (rb"\s*<(!doctype|html|\?xml|head)", "it is a web page: download the file behind the link"),
    (rb"version https://git-lfs", "it is a pointer of Git LFS: `git lfs pull` fetches the file"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "it is compressed: unpack it"),
    (rb".{257}ustar", "it is a tar archive: unpack it"),
    (rb"\x89HDF", "it is an HDF5 file, as Keras writes them: weights of PyTorch are needed"),
    (rb"\x08[\x01-\x20]\x12.{1,64}(\x1a|\x22|:)", "it is an ONNX graph: give the checkpoint that "
     "it was exported from"),
    (rb"TFL3|.{4}TFL3", "it is a TensorFlow Lite graph: weights of PyTorch are needed"),
    (rb"\x93NUMPY", "it is an array of NumPy: tensors by name are needed"),
    (rb"GGUF", "it is a GGUF file: weights of PyTorch are needed"),
    (rb"\s*[{\[]\s*[\"{\[]", "it is a JSON text: a file of weights is needed"),
)  # fmt: skip


def is_safetensors(path: str) -> bool:
    """Whether the file begins as the safetensors format does."""
    with open(path, "rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 10**9


def other_kind(path: str) -> str:
    """What the file is and what to do, or "" for one that may hold weights.

    Raises:
        OSError: it cannot be read.
    """
    if os.path.isdir(path):
        return "it is a folder: give a file in it"
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty: copy or download it again"
    flags = re.DOTALL | re.IGNORECASE
    return next((said for pattern, said in _KINDS if re.match(pattern, head, flags)), "")
