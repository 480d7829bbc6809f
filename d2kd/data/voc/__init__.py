"""Pascal VOC's layout, and others of a xml file for each image."""

from .convert import voc_to_coco
from .files import has_annotations, image_root

__all__ = ["has_annotations", "image_root", "voc_to_coco"]
