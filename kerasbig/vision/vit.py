"""The Vision Transformer that classifies images, from a preset or from scratch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
from safetensors import SafetensorError

from kerasbig.arguments import require_dropout, require_size
from kerasbig.data.image_batches import RESIZES
from kerasbig.data.presets import hugging_face_type, resolve_preset
from kerasbig.vision.image_presets import IMAGE_CLASSIFIER, label_names, pixel_scaling, read_hugging_face_config
from kerasbig.vision.labels import LabelAccuracy, LabelCrossentropy
from kerasbig.vision.positions import copy_weights
from kerasbig.vision.stem import ConvStemViTBackbone, ConvStemViTImageClassifier
from kerasbig.vision.stochastic_depth import drop_branches

# "tiny" and "small": Touvron et al., 2021, DeiT, arXiv:2012.12877, table 1. "base", "large" and "huge": Dosovitskiy et al.,
# 2021, arXiv:2010.11929, table 1. "lite-…", for small images and little data: Hassani et al., 2021, arXiv:2104.05704,
# the ViT-Lite and CCT of so many layers.
VIT_SIZES: dict[str, dict[str, int]] = {
    "lite-2": {"num_layers": 2, "hidden_dim": 128, "num_heads": 2, "mlp_dim": 128},
    "lite-4": {"num_layers": 4, "hidden_dim": 128, "num_heads": 2, "mlp_dim": 128},
    "lite-6": {"num_layers": 6, "hidden_dim": 256, "num_heads": 4, "mlp_dim": 512},
    "lite-7": {"num_layers": 7, "hidden_dim": 256, "num_heads": 4, "mlp_dim": 512},
    "tiny": {"num_layers": 12, "hidden_dim": 192, "num_heads": 3, "mlp_dim": 768},
    "small": {"num_layers": 12, "hidden_dim": 384, "num_heads": 6, "mlp_dim": 1536},
    "base": {"num_layers": 12, "hidden_dim": 768, "num_heads": 12, "mlp_dim": 3072},
    "large": {"num_layers": 24, "hidden_dim": 1024, "num_heads": 16, "mlp_dim": 4096},
    "huge": {"num_layers": 32, "hidden_dim": 1280, "num_heads": 16, "mlp_dim": 5120},
}
# The side that presets are trained at, and larger photographs are brought to.
LARGEST_SIDE = 224
POOLINGS = ("token", "gap")


def vit_classifier(
    classes: Sequence[str],
    *,
    preset: str | os.PathLike[str] | None = None,
    size: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    patch_size: int | None = None,
    stem: bool = False,
    pooling: str = "token",
    resize: str = "stretch",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    dtype: str | None = None,
) -> keras_hub.models.ImageClassifier:
    """Builds a Vision Transformer that classifies images.

    The model comes compiled with AdamW and cross entropy; compile it again for your own.

    Args:
        classes: Names of the classes, in the order of the logits.
        preset: A pretrained model to start from: a folder saved by KerasHub, a Hugging Face folder of a ViT or DeiT, or
            a KerasHub name of any of its image classifiers. Either this or `size`. A Hugging Face folder whose labels
            are `classes` keeps its head; every other preset gets a new one.
        size: A key of `VIT_SIZES`, such as "tiny" or "base", with new random weights.
        image_shape: (height, width, 3) in pixels, both multiples of the patch size; by default (224, 224, 3), or the
            preset's own. For a ViT preset the position embeddings are interpolated to another.
        patch_size: Pixels to each side of a patch; by default 16 for images from 128 pixels on, 8 from 64, 4 from 16, else 2.
            Only beside `size`.
        stem: Whether a few small convolutions embed the patches, `kerasbig.vision.stem.ConvStem`: more accurate from
            little data. Only beside `size`; the patch size is then a power of 2.
        pooling: "token" takes the class token, "gap" the mean of all tokens. Only beside `size`.
        resize: How images of another shape are fitted: "stretch" changes their aspect, "crop" cuts off what is too much,
            "pad" leaves black sides.
        dropout: Share of activations dropped in training, from 0 to below 1. A preset keeps its own in the encoder and
            takes this in the head.
        drop_path: Stochastic depth: share of the last block's branches left out in training, from 0 to below 1.
        dtype: A Keras dtype policy such as "mixed_bfloat16"; Keras's own default if None.

    Returns:
        A `keras_hub.models.ViTImageClassifier`, or the KerasHub class of the preset, with the attribute `class_names`.
        `fit`, `evaluate` and `predict` take images of any size, RGB from 0 to 255, or what `kerasbig.data.batches` makes
        of them; a direct call takes float32 (B, H, W, 3) after the preprocessor's scale and offset. Output: float logits
        (B, len(classes)), not normalized.

    Raises:
        ValueError: If fewer than two classes are given or one twice; not exactly one of `preset` and `size`; an unknown
            size, preset, pooling or resize; an image shape that is no multiple of the patch size; or a number out of
            its range.
        FileNotFoundError: If a preset folder lacks a file.

    Example:
        >>> import numpy as np
        >>> model = vit_classifier(("cat", "dog"), size="lite-2", image_shape=(32, 32, 3))
        >>> model.predict(np.zeros((1, 48, 64, 3), "uint8"), verbose=0).shape
        (1, 2)

    Source: Dosovitskiy et al., 2021, arXiv:2010.11929.
    """
    names = _class_names(classes)
    if (preset is None) == (size is None):
        raise ValueError(f"Expected exactly one of preset and size. Received: preset={preset!r}, size={size!r}")
    _require(resize=(resize, RESIZES), pooling=(pooling, POOLINGS))
    require_dropout(dropout)
    if not 0 <= drop_path < 1:
        raise ValueError(f"Expected drop_path from 0 to below 1. Received: drop_path={drop_path}")
    if preset is not None:
        if patch_size is not None or stem or pooling != "token":
            raise ValueError(
                "Expected patch_size, stem and pooling beside a size only, since a preset brings its own. "
                f"Received: patch_size={patch_size}, stem={stem}, pooling={pooling!r}, preset={preset!r}. Leave them out."
            )
        model = _from_preset(os.fspath(preset), names, image_shape, dropout, dtype)
    else:
        require_size(size, VIT_SIZES)
        shape = (224, 224, 3) if image_shape is None else image_shape
        patch = default_patch_size(shape) if patch_size is None else patch_size
        require_shape(shape, patch, stem)
        model = _from_size(str(size), len(names), shape, patch, stem, pooling, dropout, dtype)
    if drop_path:
        drop_branches(model.backbone, drop_path)
    _fit_images(model, resize)
    model.class_names = names
    compile_image_classifier(model)
    return model


def compile_image_classifier(model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Compiles an image classifier: cross entropy and accuracy of class ids, or of labels that augmentation has softened.

    Args:
        model: A model from `vit_classifier`.
        optimizer: Any Keras optimizer; by default AdamW with a learning rate of 5e-5.

    Example:
        >>> model = vit_classifier(("cat", "dog"), size="lite-2", image_shape=(16, 16, 3))
        >>> compile_image_classifier(model, keras.optimizers.SGD(0.1))
        >>> type(model.optimizer).__name__
        'SGD'
    """
    model.compile(
        optimizer=optimizer or keras.optimizers.AdamW(5e-5, weight_decay=0.05),
        loss=LabelCrossentropy(),
        metrics=[LabelAccuracy()],
    )


def default_patch_size(image_shape: tuple[int, int, int]) -> int:
    """Returns the patch size for images of a shape: about 8 x 8 to 14 x 14 patches.

    Example:
        >>> default_patch_size((224, 224, 3)), default_patch_size((32, 32, 3))
        (16, 4)
    """
    side = min(image_shape[:2])
    return next(patch for least, patch in ((128, 16), (64, 8), (16, 4), (0, 2)) if side >= least)


def fitting_shape(inputs: Any, patch_size: int | None = None, largest: int = LARGEST_SIDE) -> tuple[int, int, int]:
    """Returns the square image shape for images: their own size, at most `largest`, rounded up to whole patches.

    Args:
        inputs: The inputs of examples: `kerasbig.data.ImageFiles`, or uint8 (N, H, W, 3).
        patch_size: The patch size; None for what `default_patch_size` chooses.
        largest: The largest side, before it is rounded up.

    Returns:
        (side, side, 3).

    Example:
        >>> import numpy as np
        >>> fitting_shape(np.zeros((10, 25, 25, 3), "uint8"))
        (28, 28, 3)
    """
    side = min(inputs.shape[1:3]) if isinstance(inputs, np.ndarray) else int(np.median(inputs.sizes.min(axis=1)))
    side = min(side, largest)
    patch = patch_size or default_patch_size((side, side, 3))
    side = -(-side // patch) * patch
    return side, side, 3


def _class_names(classes: Sequence[str]) -> tuple[str, ...]:
    if classes is None or isinstance(classes, str) or any(not isinstance(name, str) for name in classes):
        raise ValueError(f"Expected classes to be a list of names. Received: classes={classes!r}")
    names = tuple(classes)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"Expected at least two classes with different names. Received: classes={list(names)}")
    return names


def _require(**chosen: tuple[str, Sequence[str]]) -> None:
    for name, (value, allowed) in chosen.items():
        if value not in allowed:
            raise ValueError(f"Expected {name} to be one of {', '.join(allowed)}. Received: {name}={value!r}")


def require_shape(image_shape: tuple[int, ...], patch_size: int, stem: bool) -> None:
    """Raises ValueError for an image shape that does not consist of whole patches, or of patches that a stem cannot make.

    Example:
        >>> require_shape((32, 48, 3), 8, stem=True)
    """
    if len(image_shape) != 3 or image_shape[2] != 3 or min(image_shape) < 1:
        raise ValueError(f"Expected image_shape to be (height, width, 3). Received: image_shape={image_shape}")
    if patch_size < 1 or any(side % patch_size for side in image_shape[:2]):
        nearest = tuple(max(1, round(side / max(patch_size, 1))) * max(patch_size, 1) for side in image_shape[:2])
        raise ValueError(
            f"Expected height and width to be multiples of the patch size. Received: image_shape={image_shape}, "
            f"patch_size={patch_size}. Use image_shape={(*nearest, 3)}, or another patch_size."
        )
    if stem and patch_size & (patch_size - 1):
        raise ValueError(f"Expected a patch size of 2, 4, 8 or another power of 2 with a stem. Received: patch_size={patch_size}")


def _from_size(
    size: str, outputs: int, image_shape: tuple[int, int, int], patch_size: int, stem: bool, pooling: str, dropout: float, dtype: str | None
) -> keras_hub.models.ViTImageClassifier:
    shared: dict[str, Any] = {**VIT_SIZES[size], "dropout_rate": dropout, "use_class_token": pooling == "token", "dtype": dtype}
    backbone_class = ConvStemViTBackbone if stem else keras_hub.models.ViTBackbone
    task_class = ConvStemViTImageClassifier if stem else keras_hub.models.ViTImageClassifier
    backbone = backbone_class(image_shape=image_shape, patch_size=patch_size, **shared)
    return task_class(backbone, outputs, preprocessor=_preprocessor(None), pooling=pooling, dropout=dropout)


def _preprocessor(folder: str | None) -> keras_hub.models.ViTImageClassifierPreprocessor:
    scale, offset = pixel_scaling(folder)
    return keras_hub.models.ViTImageClassifierPreprocessor(keras_hub.layers.ViTImageConverter(scale=scale, offset=offset))


def _from_preset(
    preset: str, names: tuple[str, ...], image_shape: tuple[int, int, int] | None, dropout: float, dtype: str | None
) -> keras_hub.models.ImageClassifier:
    source = resolve_preset(preset, IMAGE_CLASSIFIER)
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    try:
        if hugging_face_type(source) == "vit":
            model = _from_hugging_face(source, names, dropout, options)
        else:
            model = keras_hub.models.ImageClassifier.from_preset(source, num_classes=len(names), dropout=dropout, **options)
    except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
        raise ValueError(f"Expected preset {preset!r} to load as an image classifier. Received: {error}") from error
    if image_shape is None or tuple(image_shape) == tuple(model.backbone.image_shape):
        return model
    return _at_other_size(model, preset, image_shape)


def _from_hugging_face(folder: str, names: tuple[str, ...], dropout: float, options: dict[str, Any]) -> keras_hub.models.ViTImageClassifier:
    """Reads a ViT of Hugging Face with its own epsilon and pixel scaling, and its head if it is for these classes."""
    config = read_hugging_face_config(folder)
    backbone = keras_hub.models.ViTBackbone.from_preset(folder, layer_norm_epsilon=config.get("layer_norm_eps", 1e-12), **options)
    kept = label_names(config) == names and "ViTForImageClassification" in config.get("architectures", ())
    # Without `num_classes`, KerasHub reads the head.
    head = {} if kept else {"num_classes": len(names)}
    return keras_hub.models.ViTImageClassifier.from_preset(
        folder, backbone=backbone, preprocessor=_preprocessor(folder), dropout=dropout, **head
    )


def _at_other_size(
    model: keras_hub.models.ImageClassifier, preset: str, image_shape: tuple[int, int, int]
) -> keras_hub.models.ImageClassifier:
    """Rebuilds a classifier for another image shape, its position embeddings interpolated."""
    config = model.backbone.get_config()
    if "image_shape" not in config or "patch_size" not in config:
        raise ValueError(
            f"Expected no image_shape for preset {preset!r}, a {type(model).__name__}. Received: image_shape={image_shape}. Leave it out."
        )
    patch = config["patch_size"]
    patch = patch if isinstance(patch, int) else patch[0]
    require_shape(image_shape, patch, stem=False)
    backbone = type(model.backbone).from_config({**config, "image_shape": tuple(image_shape)})
    grid, new_grid = ((shape[0] // patch, shape[1] // patch) for shape in (config["image_shape"], image_shape))
    copy_weights(model.backbone, backbone, grid, new_grid)
    task = {**model.get_config(), "backbone": backbone, "preprocessor": model.preprocessor}
    twin = type(model)(**task)
    head = {id(weight) for weight in model.backbone.weights}
    own = {id(weight) for weight in twin.backbone.weights}
    for new, old in zip([w for w in twin.weights if id(w) not in own], [w for w in model.weights if id(w) not in head], strict=True):
        new.assign(old)
    return twin


def _fit_images(model: keras_hub.models.ImageClassifier, resize: str) -> None:
    """Gives the model an image converter that fits images to its own shape."""
    old = getattr(model.preprocessor, "image_converter", None)
    kind = type(old) if old is not None else keras_hub.layers.ViTImageConverter
    scale, offset = (old.scale, old.offset) if old is not None else pixel_scaling(None)
    converter = kind(
        image_size=tuple(model.backbone.image_shape[:2]),
        scale=scale,
        offset=offset,
        crop_to_aspect_ratio=resize == "crop",
        pad_to_aspect_ratio=resize == "pad",
        interpolation="bilinear",
        antialias=True,
    )
    if model.preprocessor is None:
        model.preprocessor = keras_hub.models.ViTImageClassifierPreprocessor(converter)
    model.preprocessor.image_converter = converter
