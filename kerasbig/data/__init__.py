"""Raw files to examples, and examples to batches.

Only the table of samples loads at once: naming `batches` imports TensorFlow, the rest does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# At once and light: loaded later, the module would take the place of its function of the same name.
from kerasbig.data.samples import Sample, fetch, samples

if TYPE_CHECKING:
    from kerasbig.data.augmentation import AUGMENTATIONS, Augmentation
    from kerasbig.data.batching import Padding, batches, predict_logits
    from kerasbig.data.box_augmentation import BOX_AUGMENTATIONS, BoxAugmentation
    from kerasbig.data.boxes import Boxes
    from kerasbig.data.documents import Documents
    from kerasbig.data.drawing import class_colour, draw_boxes
    from kerasbig.data.examples import Examples, Splits
    from kerasbig.data.images import ImageFiles, decode, is_images
    from kerasbig.data.pictures import data_address, fitted_pixels, names_of, pixels_of, thumbnail
    from kerasbig.data.splits import load, read
    from kerasbig.data.windows import measure_documents

__all__ = [
    "AUGMENTATIONS",
    "BOX_AUGMENTATIONS",
    "Augmentation",
    "BoxAugmentation",
    "Boxes",
    "Documents",
    "Examples",
    "ImageFiles",
    "Padding",
    "Sample",
    "Splits",
    "batches",
    "class_colour",
    "data_address",
    "decode",
    "draw_boxes",
    "fetch",
    "fitted_pixels",
    "is_images",
    "load",
    "measure_documents",
    "names_of",
    "pixels_of",
    "predict_logits",
    "read",
    "samples",
    "thumbnail",
]

_MODULES = {
    "AUGMENTATIONS": "augmentation",
    "Augmentation": "augmentation",
    "BOX_AUGMENTATIONS": "box_augmentation",
    "BoxAugmentation": "box_augmentation",
    "Boxes": "boxes",
    "Documents": "documents",
    "Examples": "examples",
    "ImageFiles": "images",
    "Padding": "batching",
    "Splits": "examples",
    "batches": "batching",
    "class_colour": "drawing",
    "data_address": "pictures",
    "decode": "images",
    "draw_boxes": "drawing",
    "fitted_pixels": "pictures",
    "is_images": "images",
    "load": "splits",
    "measure_documents": "windows",
    "names_of": "pictures",
    "pixels_of": "pictures",
    "predict_logits": "batching",
    "read": "splits",
    "thumbnail": "pictures",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'kerasbig.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
