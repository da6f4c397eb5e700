"""Raw files to examples, and examples to batches.

Everything loads on first use: naming `batches` imports TensorFlow, the rest does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasbig.data.augmentation import AUGMENTATIONS, Augmentation
    from kerasbig.data.batching import Padding, batches, predict_logits
    from kerasbig.data.box_augmentation import BOX_AUGMENTATIONS, BoxAugmentation
    from kerasbig.data.boxes import Boxes
    from kerasbig.data.documents import Documents, passages
    from kerasbig.data.drawing import class_colour, draw_boxes
    from kerasbig.data.examples import Examples, Splits
    from kerasbig.data.images import ImageFiles, decode, is_images
    from kerasbig.data.pictures import data_address, fitted_pixels, names_of, pixels_of, thumbnail
    from kerasbig.data.samples import Sample, fetch, samples
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
    "passages",
    "pixels_of",
    "predict_logits",
    "read",
    "samples",
    "thumbnail",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "augmentation": ["AUGMENTATIONS", "Augmentation"],
        "batching": ["Padding", "batches", "predict_logits"],
        "box_augmentation": ["BOX_AUGMENTATIONS", "BoxAugmentation"],
        "boxes": ["Boxes"],
        "documents": ["Documents", "passages"],
        "drawing": ["class_colour", "draw_boxes"],
        "examples": ["Examples", "Splits"],
        "images": ["ImageFiles", "decode", "is_images"],
        "pictures": ["data_address", "fitted_pixels", "names_of", "pixels_of", "thumbnail"],
        "samples": ["Sample", "fetch", "samples"],
        "splits": ["load", "read"],
        "windows": ["measure_documents"],
    },
)
