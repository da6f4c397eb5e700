"""The plain Vision Transformer that finds objects: a KerasHub ViT, a simple pyramid, and an FCOS head."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from safetensors import SafetensorError

from kerasbig.arguments import require_dropout, require_size
from kerasbig.data.image_batches import RESIZES, resize_of, resize_plan
from kerasbig.data.presets import hugging_face_type, resolve_preset
from kerasbig.vision.fcos import FcosLoss, packed
from kerasbig.vision.image_presets import IMAGE_CLASSIFIER, pixel_scaling, read_hugging_face_config
from kerasbig.vision.positions import copy_weights
from kerasbig.vision.pyramid import default_pyramid, fcos_head, feature_map, pyramid_maps
from kerasbig.vision.stem import ConvStemViTBackbone
from kerasbig.vision.stochastic_depth import drop_branches
from kerasbig.vision.vit import VIT_SIZES, default_patch_size, require_shape

# ViTDet's own: pixels from 0 to 1, which the backbone normalizes itself.
WINDOWED_SCALE = 1 / 255
# One block in so many sees the whole image where attention is windowed (Li et al., 2022, arXiv:2203.16527, section 3).
GLOBAL_BLOCKS = 4
WIDEST_HEAD = 256
LARGEST_SIDE = 320


@keras.saving.register_keras_serializable(package="kerasbig")
class BoxPreprocessor(keras_hub.models.ObjectDetectorPreprocessor):
    """Resizes images as its converter does, and carries their boxes along: KerasHub's own expects other names of labels.

    Args:
        image_converter: A `keras_hub.layers.ImageConverter`.
    """

    def call(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Takes images (B, H, W, 3) of one size, and labels as `ViTDetector` has them, in pixels of those images."""
        if isinstance(y, Mapping):
            size = tuple(x.shape[-3:-1])
            if None in size:
                raise ValueError(
                    f"Expected images of one size beside boxes. Received: shape={tuple(x.shape)}. Use kerasbig.data.batches instead."
                )
            plan = resize_plan(np.array([size]), self.image_converter.image_size, resize_of(self.image_converter))[0]
            scale_y, scale_x, shift_y, shift_x = plan
            moved = tf.cast(y["boxes"], tf.float32) * [scale_x, scale_y, scale_x, scale_y] + [shift_x, shift_y, shift_x, shift_y]
            y = {**y, "boxes": tf.where((tf.cast(y["classes"], tf.int32) >= 0)[..., None], moved, -1.0)}
        # The converter's padding takes no whole numbers.
        return keras.utils.pack_x_y_sample_weight(self.image_converter(tf.cast(x, tf.float32)), y, sample_weight)


@keras.saving.register_keras_serializable(package="kerasbig")
class ViTDetector(keras_hub.models.ObjectDetector):
    """A KerasHub object detector on a plain ViT; `vit_detector` builds it.

    Input: float32 (B, H, W, 3) after the preprocessor's scale and offset. Output: float32 (B, N, C + 4) for N places on
    all levels: C logits, then log of the distances to the four sides, in strides; `kerasbig.decoding.boxes.decode` makes boxes of
    them and `kerasbig.vision.detect` finished answers. Labels: a dict of float32 (B, M, 4) `boxes`, "xyxy" in pixels of the
    input, and int32 (B, M) `classes`, both filled up with -1.

    Args:
        backbone: A KerasHub ViT whose output is (B, T, D) tokens or a (B, h, w, D) map.
        num_classes: C.
        pyramid: Strides of the levels in pixels, ascending; each the patch size times or over a power of 2.
        head_dim: Channels of pyramid and head.
        head_depth: Convolutions of each part of the head before its last one.
        preprocessor: A `BoxPreprocessor`.
    """

    backbone_cls = keras_hub.models.ViTBackbone
    preprocessor_cls = BoxPreprocessor

    def __init__(
        self,
        backbone: Any,
        num_classes: int,
        pyramid: Sequence[int],
        head_dim: int = 64,
        head_depth: int = 2,
        preprocessor: Any = None,
        **kwargs: Any,
    ):
        patch_size = _side(backbone.patch_size)
        images = keras.layers.Input(shape=backbone.input.shape[1:], name="images")
        # As one layer: a model made of the backbone's own output is saved, but not read back.
        features = feature_map(backbone(images), backbone.image_shape, patch_size)
        maps = pyramid_maps(images, features, patch_size, pyramid, head_dim)
        # KerasHub compiles at once, before what the loss needs is known here.
        compiled = kwargs.pop("compile", True)
        outputs = fcos_head(maps, num_classes, head_dim, head_depth)
        super().__init__(inputs=images, outputs=outputs, compile=False, **kwargs)
        self.backbone, self.preprocessor = backbone, preprocessor
        self.num_classes, self.pyramid, self.head_dim, self.head_depth = num_classes, tuple(pyramid), head_dim, head_depth
        self.image_shape = tuple(int(side) for side in backbone.image_shape)
        if compiled:
            self.compile()

    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = None, jit_compile: bool = False, **kwargs: Any
    ) -> None:
        """Compiles as any Keras model does; "auto" is AdamW and `kerasbig.vision.fcos.FcosLoss`.

        XLA is left out unless it is asked for: it takes less than 60 % of the time a step, but compiles each size of batch anew.

        Raises:
            ValueError: If XLA is asked for on several replicas, which could not count the boxes of the whole batch in it.
        """
        if jit_compile and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError("Expected jit_compile=False on several replicas, which count the boxes of the whole batch. Received: True.")
        optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.05) if optimizer == "auto" else optimizer
        loss = FcosLoss(self.image_shape, self.pyramid) if loss == "auto" else loss
        # KerasHub's own would split the loss over two outputs.
        super(keras_hub.models.ObjectDetector, self).compile(
            optimizer=optimizer, loss=loss, metrics=metrics, jit_compile=jit_compile, **kwargs
        )

    def compile_from_config(self, config: Any) -> None:
        """Compiles as before it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    @staticmethod
    def joined_labels(y: Any) -> Any:
        """Returns labels as the loss takes them, float32 (B, M, 5); a distiller asks for it."""
        return packed(y)

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:
        """Joins boxes and classes to what a Keras loss takes."""
        return super().compute_loss(x=x, y=packed(y), y_pred=y_pred, sample_weight=sample_weight, training=training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Joins boxes and classes in the same way."""
        return super().compute_metrics(x, packed(y), y_pred, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        own = {name: getattr(self, name) for name in ("num_classes", "pyramid", "head_dim", "head_depth")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="kerasbig")
class ConvStemViTDetector(ViTDetector):
    """A `ViTDetector` with a `ConvStemViTBackbone`, so that a preset of it is found again."""

    backbone_cls = ConvStemViTBackbone


@keras.saving.register_keras_serializable(package="kerasbig")
class WindowedViTDetector(ViTDetector):
    """A `ViTDetector` with KerasHub's ViTDet, whose blocks see windows of the image, a few of them all of it."""

    backbone_cls = keras_hub.models.ViTDetBackbone


def vit_detector(
    classes: Sequence[str],
    *,
    preset: str | os.PathLike[str] | None = None,
    size: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    patch_size: int | None = None,
    stem: bool = False,
    window_size: int | None = None,
    pyramid: Sequence[int] | None = None,
    resize: str = "pad",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    dtype: str | None = None,
) -> ViTDetector:
    """Builds a plain Vision Transformer that finds objects and their boxes.

    The model comes compiled with AdamW and its loss; compile it again for your own optimizer.

    Args:
        classes: Names of the classes, in the order of their ids; one is enough.
        preset: A pretrained ViT to start from: a folder saved by KerasHub (the classifier of a Run, say), a Hugging Face
            folder of a ViT, or a KerasHub name. Pyramid and head are new. Either this or `size`.
        size: A key of `kerasbig.vision.VIT_SIZES`, with new random weights.
        image_shape: (height, width, 3) in pixels, both multiples of the patch size; by default (224, 224, 3), or the
            preset's own. The position embeddings of a preset are interpolated to another.
        patch_size: Pixels to each side of a patch; by default as for `vit_classifier`. Only beside `size`.
        stem: Whether a few small convolutions embed the patches: more accurate from little data. Only beside `size`.
        window_size: Patches to a side of the windows that attention is confined to but for a quarter of the blocks, for
            large images; None attends to everything. Only beside `size`, for square images, without `stem`.
        pyramid: Strides in pixels of the maps that boxes are found on, ascending; each the patch size times or over a power of
            2. By default from a quarter of a patch, at least 4 pixels, to two patches; see `default_pyramid`.
        resize: How images of another shape are fitted: "pad" keeps their aspect and leaves black sides, "stretch" changes
            it, "crop" cuts off what is too much.
        dropout: Share of activations dropped in training, from 0 to below 1. Only beside `size`.
        drop_path: Stochastic depth: share of the last block's branches left out in training, from 0 to below 1.
        dtype: A Keras dtype policy such as "mixed_bfloat16"; Keras's own default if None. It holds for the ViT; pyramid
            and head compute in float32.

    Returns:
        A `ViTDetector` with the attribute `class_names`; see there for inputs, outputs and labels. `kerasbig.data.batches`
        makes both out of examples with boxes, and `kerasbig.vision.detect` finds boxes in new images.

    Raises:
        ValueError: If no class is given or one twice; not exactly one of `preset` and `size`; an unknown size, preset or
            resize; an image shape that is no multiple of the patch size; a stride that does not fit the patch size; or a
            number out of its range.
        FileNotFoundError: If a preset folder lacks a file.

    Example:
        >>> import numpy as np
        >>> model = vit_detector(("cat", "dog"), size="lite-2", image_shape=(32, 32, 3), patch_size=8)
        >>> model.pyramid, model.predict(np.zeros((1, 48, 64, 3), "uint8"), verbose=0).shape
        ((4,), (1, 64, 6))

    Source: Li et al., 2022, arXiv:2203.16527 (plain backbone, simple pyramid); Tian et al., 2019, arXiv:1904.01355 (head).
    """
    names = _class_names(classes)
    if (preset is None) == (size is None):
        raise ValueError(f"Expected exactly one of preset and size. Received: preset={preset!r}, size={size!r}")
    if resize not in RESIZES:
        raise ValueError(f"Expected resize to be one of {', '.join(RESIZES)}. Received: resize={resize!r}")
    require_dropout(dropout)
    if not 0 <= drop_path < 1:
        raise ValueError(f"Expected drop_path from 0 to below 1. Received: drop_path={drop_path}")
    if preset is not None:
        if patch_size is not None or stem or window_size is not None or dropout:
            raise ValueError(
                "Expected patch_size, stem, window_size and dropout beside a size only, since a preset brings its own. Received: "
                f"patch_size={patch_size}, stem={stem}, window_size={window_size}, dropout={dropout}, preset={preset!r}. Leave them out."
            )
        backbone, scaling = _backbone_of_preset(os.fspath(preset), image_shape, dtype)
    else:
        require_size(size, VIT_SIZES)
        shape = (224, 224, 3) if image_shape is None else image_shape
        backbone = _backbone_of_size(str(size), shape, patch_size or default_patch_size(shape), stem, window_size, dropout, dtype)
        scaling = pixel_scaling(None) if window_size is None else ((WINDOWED_SCALE,) * 3, (0.0,) * 3)
    if drop_path:
        drop_branches(backbone, drop_path)
    model = _on_backbone(backbone, len(names), pyramid, _preprocessor(backbone, resize, scaling))
    model.class_names = names
    compile_object_detector(model)
    return model


def compile_object_detector(model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Compiles a detector with `kerasbig.vision.fcos.FcosLoss`.

    Args:
        model: A model from `vit_detector`, or a distiller whose student is one.
        optimizer: Any Keras optimizer; by default AdamW with a learning rate of 1e-4.

    Example:
        >>> model = vit_detector(("cat",), size="lite-2", image_shape=(16, 16, 3))
        >>> compile_object_detector(model, keras.optimizers.SGD(0.1))
    """
    detector = getattr(model, "student", model)
    chosen = optimizer or keras.optimizers.AdamW(1e-4, weight_decay=0.05)
    model.compile(chosen, FcosLoss(detector.image_shape, detector.pyramid), jit_compile=False)


def photo_shape(inputs: Any, patch_size: int | None = None) -> tuple[int, int, int]:
    """Returns the image shape for photographs: of their usual aspect, as large as they are, at most 320 to the longer side.

    Args:
        inputs: The inputs of examples: `kerasbig.data.ImageFiles`, or uint8 (N, H, W, 3).
        patch_size: The patch size; None for what `kerasbig.vision.vit.default_patch_size` chooses.

    Returns:
        (height, width, 3), both rounded up to whole patches.

    Example:
        >>> photo_shape(np.zeros((2, 480, 640, 3), "uint8"))
        (240, 320, 3)
    """
    height, width = inputs.shape[1:3] if isinstance(inputs, np.ndarray) else np.median(inputs.sizes, axis=0)
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    sides = [max(1, round(float(side) * scale)) for side in (height, width)]
    patch = patch_size or default_patch_size((*sides, 3))
    return -(-sides[0] // patch) * patch, -(-sides[1] // patch) * patch, 3


def _class_names(classes: Sequence[str]) -> tuple[str, ...]:
    if classes is None or isinstance(classes, str) or any(not isinstance(name, str) for name in classes):
        raise ValueError(f"Expected classes to be a list of names. Received: classes={classes!r}")
    names = tuple(classes)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Expected at least one class, each with a name of its own. Received: classes={list(names)}")
    return names


def _side(patch_size: Any) -> int:
    return patch_size if isinstance(patch_size, int) else int(patch_size[0])


def _backbone_of_size(
    size: str, image_shape: tuple[int, int, int], patch_size: int, stem: bool, window_size: int | None, dropout: float, dtype: str | None
) -> Any:
    require_shape(image_shape, patch_size, stem)
    image_shape = (image_shape[0], image_shape[1], 3)
    config = VIT_SIZES[size]
    if window_size is None:
        kind = ConvStemViTBackbone if stem else keras_hub.models.ViTBackbone
        return kind(image_shape=image_shape, patch_size=patch_size, **config, dropout_rate=dropout, use_class_token=False, dtype=dtype)
    if window_size < 1 or stem or dropout or image_shape[0] != image_shape[1]:
        raise ValueError(
            "Expected window_size of at least 1, for square images, without stem and dropout: KerasHub's ViTDet has none. Received: "
            f"window_size={window_size}, image_shape={image_shape}, stem={stem}, dropout={dropout}."
        )
    layers = config["num_layers"]
    before = keras.config.dtype_policy()
    # KerasHub's ViTDet does not hand its dtype on to its layers.
    keras.config.set_dtype_policy(before if dtype is None else dtype)
    try:
        return keras_hub.models.ViTDetBackbone(
            hidden_size=config["hidden_dim"],
            num_layers=layers,
            num_heads=config["num_heads"],
            intermediate_dim=config["mlp_dim"],
            global_attention_layer_indices=[round(layers * (part + 1) / GLOBAL_BLOCKS) - 1 for part in range(GLOBAL_BLOCKS)],
            image_shape=image_shape,
            patch_size=patch_size,
            num_output_channels=config["hidden_dim"],
            window_size=window_size,
        )
    finally:
        keras.config.set_dtype_policy(before)


def _backbone_of_preset(preset: str, image_shape: tuple[int, int, int] | None, dtype: str | None) -> tuple[Any, Any]:
    """Returns the backbone of a preset at an image shape, and scale and offset of its pixels."""
    source = resolve_preset(preset, IMAGE_CLASSIFIER)
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    try:
        if hugging_face_type(source) == "vit":
            epsilon = read_hugging_face_config(source).get("layer_norm_eps", 1e-12)
            backbone = keras_hub.models.ViTBackbone.from_preset(source, layer_norm_epsilon=epsilon, **options)
            scaling = pixel_scaling(source)
        else:
            backbone = keras_hub.models.Backbone.from_preset(source, **options)
            scaling = _scaling_of(source)
    except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
        raise ValueError(f"Expected preset {preset!r} to load as a ViT. Received: {error}") from error
    kinds: Any = tuple(kind.backbone_cls for kind in DETECTORS)
    if not isinstance(backbone, kinds):
        known = ", ".join(kind.backbone_cls.__name__ for kind in DETECTORS)
        raise ValueError(f"Expected preset {preset!r} to be one of {known}. Received: {type(backbone).__name__}. Name a plain ViT.")
    config = backbone.get_config()
    if image_shape is None or tuple(image_shape) == tuple(config["image_shape"]):
        return backbone, scaling
    patch = _side(config["patch_size"])
    require_shape(image_shape, patch, stem=False)
    kind: Any = type(backbone)
    resized = kind.from_config({**config, "image_shape": tuple(image_shape)})
    grid, new_grid = ((shape[0] // patch, shape[1] // patch) for shape in (config["image_shape"], image_shape))
    copy_weights(backbone, resized, grid, new_grid)
    return resized, scaling


def _scaling_of(source: str) -> Any:
    """Returns scale and offset of a KerasHub preset's image converter; those of a plain ViT if it has none."""
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(source)
    except (ValueError, OSError):
        return pixel_scaling(None)
    return converter.scale, converter.offset


def _preprocessor(backbone: Any, resize: str, scaling: Any) -> Any:
    scale, offset = scaling
    converter = keras_hub.layers.ViTImageConverter(
        image_size=tuple(int(side) for side in backbone.image_shape[:2]),
        scale=scale,
        offset=offset,
        crop_to_aspect_ratio=resize == "crop",
        pad_to_aspect_ratio=resize == "pad",
        interpolation="bilinear",
        antialias=True,
    )
    return BoxPreprocessor(converter)


def _on_backbone(backbone: Any, num_classes: int, pyramid: Sequence[int] | None, preprocessor: Any) -> ViTDetector:
    patch_size = _side(backbone.patch_size)
    strides = default_pyramid(backbone.image_shape, patch_size) if pyramid is None else tuple(pyramid)
    fitting = [patch_size * 2**power for power in range(6)] + [
        patch_size // 2**power for power in range(1, 6) if patch_size % 2**power == 0
    ]
    if not strides or list(strides) != sorted(set(strides)) or any(stride not in fitting for stride in strides):
        raise ValueError(
            f"Expected pyramid to be ascending strides out of {', '.join(map(str, sorted(fitting)))} for a patch size of {patch_size}. "
            f"Received: pyramid={tuple(strides)}"
        )
    kind = next(kind for kind in DETECTORS if isinstance(backbone, kind.backbone_cls))
    width = int(min(WIDEST_HEAD, backbone.output.shape[-1] // 2))
    return kind(backbone, num_classes, strides, head_dim=width, preprocessor=preprocessor)


DETECTORS = (ConvStemViTDetector, WindowedViTDetector, ViTDetector)
