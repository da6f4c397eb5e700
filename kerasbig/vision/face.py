"""The Vision Transformer that tells people apart: an embedding on the unit sphere, and cosines to each person."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras
import keras_hub

from kerasbig.vision.labels import LabelAccuracy
from kerasbig.vision.margins import MARGIN_LOSSES, require_margin
from kerasbig.vision.stem import ConvStemViTBackbone, ConvStemViTImageClassifier
from kerasbig.vision.vit import vit_classifier

EMBEDDING = "embedding"
POOLINGS = ("token", "gap", "flatten")
# For some dozens of people, by measurement: see `docs/faces.md`.
MARGINS = {"arcface": 0.2, "cosface": 0.1}


@keras.saving.register_keras_serializable(package="kerasbig")
class CosineLogits(keras.layers.Layer):
    """Cosines between embeddings and a direction for each person, times a scale; in float32 whatever comes in.

    Args:
        num_classes: C, the number of people.
        scale: What the cosines are multiplied by.
    """

    def __init__(self, num_classes: int, scale: float, **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.num_classes, self.scale = num_classes, scale

    def build(self, input_shape: Any) -> None:
        """Makes the directions, (D, C)."""
        self.kernel = self.add_weight(shape=(input_shape[-1], self.num_classes), initializer="glorot_normal", name="kernel")
        self.built = True

    def call(self, embeddings: Any) -> Any:
        """Takes unit vectors (B, D); returns logits (B, C)."""
        directions = keras.ops.normalize(self.kernel, axis=0, epsilon=1e-12)
        return self.scale * keras.ops.matmul(embeddings, directions)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns (B, C)."""
        return (*input_shape[:-1], self.num_classes)

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {**super().get_config(), "num_classes": self.num_classes, "scale": self.scale}

    def plain_layer(self) -> keras.layers.Layer:
        """Returns a layer of Keras's own from unit vectors (B, D) to the same logits (B, C), with weights of its own."""
        layer = keras.layers.Dense(self.num_classes, use_bias=False, dtype="float32", name=self.name)
        layer.build((None, self.kernel.shape[0]))
        layer.kernel.assign(self.scale * keras.ops.normalize(self.kernel, axis=0, epsilon=1e-12))
        return layer


class FaceModel:
    """What makes a KerasHub image classifier one whose logits are cosines between embeddings; `face_classifier` builds it.

    Input: float32 (B, H, W, 3) after the preprocessor's scale and offset. Output: float32 (B, C), `scale` times the cosine of
    the angle to each person. The margin stands in the loss, so that training, saving and compressing are those of any model.

    Args:
        backbone: A KerasHub ViT whose output is tokens (B, T, D) or a map (B, h, w, D).
        num_classes: C, the number of people.
        embedding_dim: Numbers that a face becomes.
        head: "arcface" or "cosface": which loss "auto" is.
        margin: Of that loss.
        scale: What the cosines are multiplied by.
        pooling: "token", "gap" or "flatten", as for `face_classifier`.
        dropout: Share of the pooled activations dropped in training.
        threshold: From which cosine on two photographs show the same person; None before it was chosen.
        preprocessor: A `keras_hub.models.ViTImageClassifierPreprocessor`.
    """

    def __init__(
        self,
        backbone: Any,
        num_classes: int,
        embedding_dim: int = 128,
        head: str = "arcface",
        margin: float = 0.5,
        scale: float = 64.0,
        pooling: str = "flatten",
        dropout: float = 0.0,
        threshold: float | None = None,
        preprocessor: Any = None,
        **kwargs: Any,
    ):
        images = keras.layers.Input(shape=backbone.input.shape[1:], name="images")
        x = _pooled(backbone(images), pooling)
        x = keras.layers.Dropout(dropout, dtype="float32", name="output_dropout")(x)
        x = keras.layers.Dense(embedding_dim, use_bias=False, dtype="float32", name="projection")(x)
        x = keras.layers.UnitNormalization(dtype="float32", name=EMBEDDING)(x)
        outputs = CosineLogits(num_classes, scale, name="predictions")(x)
        # KerasHub compiles at once, before what the loss needs is known here.
        compiled = kwargs.pop("compile", True)
        keras_hub.models.Task.__init__(self, inputs=images, outputs=outputs, compile=False, **kwargs)
        self.backbone, self.preprocessor = backbone, preprocessor
        self.num_classes, self.embedding_dim, self.head, self.margin, self.scale = num_classes, embedding_dim, head, margin, scale
        self.pooling, self.dropout, self.threshold = pooling, dropout, threshold
        # As any image classifier of KerasHub has it: the outputs are logits.
        self.activation = keras.activations.get(None)
        if compiled:
            self.compile()

    def compile(self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any) -> None:
        """Compiles as any Keras model does; "auto" is AdamW, the loss of `head`, and the accuracy."""
        optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.05) if optimizer == "auto" else optimizer
        loss = MARGIN_LOSSES[self.head](self.margin, self.scale) if loss == "auto" else loss
        metrics = [LabelAccuracy()] if metrics == "auto" else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)  # type: ignore[misc]

    def compile_from_config(self, config: Any) -> None:
        """Compiles as before it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)  # type: ignore[attr-defined]

    def with_embedding(self) -> keras.Model:
        """Returns a model of two outputs that shares the weights: embedding (B, D) and logits (B, C).

        The input is float32 (B, H, W, 3) as the model takes it. The embedding, of length 1, is that of an image and of its mirror
        image together.

        Example:
            >>> model = face_classifier(("Ada", "Emmy"), size="lite-2", image_shape=(16, 16, 3), embedding_dim=8)
            >>> [output.shape for output in model.with_embedding().outputs]
            [(None, 8), (None, 2)]
        """
        both = keras.Model(self.inputs, [self.get_layer(EMBEDDING).output, self.outputs[0]])  # type: ignore[attr-defined]
        shape = self.inputs[0].shape[1:]  # type: ignore[attr-defined]
        images = keras.layers.Input(shape=shape, name="images")
        # One call for the two: a LiteRT converter that meets a layer twice quantizes it less well.
        pairs = keras.ops.stack([images, keras.ops.flip(images, axis=2)], axis=1)  # (B, 2, H, W, 3)
        embeddings, logits = both(keras.ops.reshape(pairs, (-1, *shape)))  # (2 B, D), (2 B, C)
        mean = keras.ops.mean(keras.ops.reshape(embeddings, (-1, 2, self.embedding_dim)), axis=1)
        own = keras.ops.reshape(logits, (-1, 2, self.num_classes))[:, 0]
        return keras.Model(images, [keras.layers.UnitNormalization(dtype="float32")(mean), own])

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        names = ("num_classes", "embedding_dim", "head", "margin", "scale", "pooling", "dropout", "threshold")
        return {**keras_hub.models.Task.get_config(self), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kerasbig")
class FaceClassifier(FaceModel, keras_hub.models.ViTImageClassifier):
    """A `FaceModel` on a plain ViT."""

    # KerasHub looks a preset's class up by its backbone, in no certain order; these two are found by the class they are saved as.
    backbone_cls = None


@keras.saving.register_keras_serializable(package="kerasbig")
class ConvStemFaceClassifier(FaceModel, ConvStemViTImageClassifier):
    """A `FaceModel` on a `ConvStemViTBackbone`; of its own class, so that a preset of it is found again."""

    backbone_cls = None  # type: ignore[assignment]


def _pooled(tokens: Any, pooling: str) -> Any:
    """Turns tokens (B, T, D) or a map (B, h, w, D) into (B, D), or (B, T D) for "flatten"."""
    if pooling == "token":
        return tokens[:, 0]
    if pooling == "flatten":
        return keras.layers.Flatten(name="flatten")(tokens)
    return keras.ops.mean(tokens, axis=list(range(1, len(tokens.shape) - 1)))


def face_classifier(
    identities: Sequence[str],
    *,
    preset: str | os.PathLike[str] | None = None,
    size: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    patch_size: int | None = None,
    stem: bool = False,
    pooling: str = "flatten",
    resize: str = "stretch",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    embedding_dim: int = 128,
    head: str = "arcface",
    margin: float | None = None,
    scale: float = 16.0,
    dtype: str | None = None,
) -> FaceModel:
    """Builds a Vision Transformer that tells people apart by their faces, those it was never trained on included.

    The model comes compiled with AdamW and the loss of its head; compile it again for your own.

    Args:
        identities: Names of the people to train on, in the order of the logits.
        preset: A pretrained ViT to start from, as for `vit_classifier`; embedding and head are new. Either this or `size`.
        size: A key of `kerasbig.vision.VIT_SIZES`, with new random weights.
        image_shape: (height, width, 3) in pixels, both multiples of the patch size; by default (224, 224, 3), or the preset's own.
        patch_size: Pixels to each side of a patch; by default as for `vit_classifier`. Only beside `size`.
        stem: Whether a few small convolutions embed the patches: more accurate from little data. Only beside `size`.
        pooling: What the embedding is made of: "flatten", all tokens one after the other, for faces that lie in about the same place
            of each image; "gap", the mean of all tokens; "token", the class token.
        resize: How images of another shape are fitted: "stretch", "crop" or "pad".
        dropout: Share of activations dropped in training, from 0 to below 1.
        drop_path: Stochastic depth: share of the last block's branches left out in training, from 0 to below 1.
        embedding_dim: Numbers that a face becomes.
        head: "arcface" or "cosface": where the margin of the loss stands.
        margin: That margin; by default 0.2 radians for "arcface", and 0.1 for "cosface". Deng et al. have 0.5 and Wang et al. 0.35,
            for thousands of people.
        scale: What the cosines are multiplied by. Deng et al. have 64, for thousands of people.
        dtype: A Keras dtype policy such as "mixed_bfloat16"; Keras's own default if None. It holds for the ViT; embedding
            and logits are float32.

    Returns:
        A KerasHub image classifier with the attribute `class_names`; see `FaceModel`. `kerasbig.vision.embed` makes unit vectors of
        photographs, `kerasbig.vision.verify` compares two, and `kerasbig.vision.Gallery` finds people.

    Raises:
        ValueError: If fewer than two people are named or one twice; an unknown head or pooling; a margin, a scale or an
            embedding_dim out of its range; a preset that is no plain ViT; or what `vit_classifier` refuses.
        FileNotFoundError: If a preset folder lacks a file.

    Example:
        >>> import numpy as np
        >>> model = face_classifier(("Ada", "Emmy"), size="lite-2", image_shape=(32, 32, 3))
        >>> model.predict(np.zeros((1, 48, 64, 3), "uint8"), verbose=0).shape
        (1, 2)

    Source: Deng et al., 2019, arXiv:1801.07698; Wang et al., 2018, arXiv:1801.09414.
    """
    names = _names(identities)
    if head not in MARGIN_LOSSES:
        raise ValueError(f"Expected head to be one of {', '.join(MARGIN_LOSSES)}. Received: head={head!r}")
    if pooling not in POOLINGS:
        raise ValueError(f"Expected pooling to be one of {', '.join(POOLINGS)}. Received: pooling={pooling!r}")
    margin = MARGINS[head] if margin is None else margin
    require_margin(margin, scale)
    if embedding_dim < 2:
        raise ValueError(f"Expected embedding_dim of at least 2. Received: embedding_dim={embedding_dim}")
    # Its own head is left behind.
    classifier = vit_classifier(
        names,
        preset=preset,
        size=size,
        image_shape=image_shape,
        patch_size=patch_size,
        stem=stem,
        pooling="gap" if preset is None and pooling != "token" else "token",
        resize=resize,
        dropout=dropout,
        drop_path=drop_path,
        dtype=dtype,
    )
    backbone = classifier.backbone
    kind = next((kind for base, kind in FACE_CLASSIFIERS.items() if isinstance(backbone, base)), None)
    if kind is None:
        known = ", ".join(base.__name__ for base in FACE_CLASSIFIERS)
        raise ValueError(f"Expected preset {preset!r} to be one of {known}. Received: {type(backbone).__name__}. Name a plain ViT.")
    model = kind(
        backbone,
        len(names),
        embedding_dim=embedding_dim,
        head=head,
        margin=margin,
        scale=scale,
        pooling=pooling,
        dropout=dropout,
        preprocessor=classifier.preprocessor,
    )
    model.class_names = names
    compile_face_classifier(model)
    return model


def compile_face_classifier(model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Compiles a face classifier with the loss of its head, and the accuracy.

    Args:
        model: A model from `face_classifier`, or a distiller of one.
        optimizer: Any Keras optimizer; by default AdamW with a learning rate of 1e-4.

    Example:
        >>> model = face_classifier(("Ada", "Emmy"), size="lite-2", image_shape=(16, 16, 3))
        >>> compile_face_classifier(model, keras.optimizers.SGD(0.1))
        >>> model.loss.name
        'arcface'
    """
    face = getattr(model, "student", model)
    model.compile(
        optimizer=optimizer or keras.optimizers.AdamW(1e-4, weight_decay=0.05),
        loss=MARGIN_LOSSES[face.head](face.margin, face.scale),
        metrics=[LabelAccuracy()],
    )


def _names(identities: Sequence[str]) -> tuple[str, ...]:
    if identities is None or isinstance(identities, str) or any(not isinstance(name, str) for name in identities):
        raise ValueError(f"Expected identities to be a list of names. Received: identities={identities!r}")
    names = tuple(identities)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"Expected at least two people with different names. Received: identities={list(names)}")
    return names


FACE_CLASSIFIERS: dict[Any, Any] = {ConvStemViTBackbone: ConvStemFaceClassifier, keras_hub.models.ViTBackbone: FaceClassifier}
