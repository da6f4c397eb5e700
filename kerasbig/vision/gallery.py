"""Faces as unit vectors: whether two photographs show one person, and who of those enrolled is on a photograph."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
import tensorflow as tf

from kerasbig.data.examples import Examples
from kerasbig.data.image_batches import IMAGES, image_batches
from kerasbig.data.images import ImageFiles
from kerasbig.files import replacing_file
from kerasbig.vision.face import EMBEDDING, FaceModel

# The same weights give the probe the same embedding; two trainings do not.
PROBE_SIDE, PROBE_AGREEMENT = 32, 0.999
_EMBEDDERS: WeakKeyDictionary[keras.Model, keras.Model] = WeakKeyDictionary()


def embed(model: keras.Model, images: Any, *, batch_size: int = 64) -> np.ndarray:
    """Turns photographs of faces into unit vectors; the cosine of two tells how alike the faces are.

    A vector is the mean of those of the photograph and of its mirror image, which tells strangers apart better than one alone.

    Args:
        model: A model from `face_classifier`.
        images: N paths, `kerasbig.data.ImageFiles`, or uint8 (N, H, W, 3).
        batch_size: Images computed at once.

    Returns:
        float32 (N, D), each of length 1.

    Raises:
        TypeError: If the model is no face classifier.

    Example:
        >>> from kerasbig.vision.face import face_classifier
        >>> model = face_classifier(("Ada", "Emmy"), size="lite-2", image_shape=(16, 16, 3))
        >>> embed(model, np.zeros((3, 20, 20, 3), "uint8")).shape
        (3, 128)
    """
    return embed_and_classify(model, images, batch_size=batch_size)[0]


def embed_and_classify(model: keras.Model, images: Any, *, batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Returns what `embed` does and the logits, float32 (N, C), in one pass."""
    # Keras's own attributes come from the class beside it.
    kind: Any = FaceModel
    if not isinstance(model, kind):
        raise TypeError(f"Expected a model from kerasbig.vision.face_classifier. Received: {type(model).__name__}.")
    inputs = images if isinstance(images, np.ndarray | ImageFiles) else ImageFiles.read(images)
    examples = Examples(inputs, np.zeros(len(inputs), "int32"), None, list(range(len(inputs))), "", "all")
    dataset = image_batches(examples, model, batch_size=batch_size, cache=False).map(lambda batch, _: batch[IMAGES])
    if model not in _EMBEDDERS:
        with model.distribute_strategy.scope():
            _EMBEDDERS[model] = model.with_embedding()
    embeddings, logits = _EMBEDDERS[model].predict(dataset, verbose=0)
    return np.asarray(embeddings, "float32"), np.asarray(logits, "float32")


@dataclass(frozen=True)
class Comparison:
    """Two photographs side by side.

    Attributes:
        similarity: The cosine between their embeddings, from -1 to 1.
        same: Whether they are taken to show the same person.
        threshold: From which similarity on they are.
    """

    similarity: float
    same: bool
    threshold: float


def verify(model: keras.Model, a: Any, b: Any, *, threshold: float | None = None) -> Comparison:
    """Tells whether two photographs show the same person, whom the model need not know.

    Args:
        model: A model from `face_classifier`.
        a: A path, or uint8 (H, W, 3).
        b: Another.
        threshold: From which similarity on they do; by default the model's own, `model.threshold`.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If there is no threshold.

    Example:
        >>> from kerasbig.vision.face import face_classifier
        >>> model = face_classifier(("Ada", "Emmy"), size="lite-2", image_shape=(16, 16, 3))
        >>> photo = np.zeros((20, 20, 3), "uint8")
        >>> verify(model, photo, photo, threshold=0.5).same
        True
    """
    least = require_threshold(model, threshold)
    first, second = (embed(model, each[None] if isinstance(each, np.ndarray) else [each])[0] for each in (a, b))
    similarity = float(np.clip(first @ second, -1, 1))
    return Comparison(similarity, similarity >= least, least)


def require_threshold(model: keras.Model, threshold: float | None = None) -> float:
    """Returns a threshold, or the model's own.

    Raises:
        ValueError: If there is neither, or it is no cosine.
    """
    chosen = getattr(model, "threshold", None) if threshold is None else threshold
    if chosen is None:
        raise ValueError(
            "Expected a threshold, or a model with one. Received: model.threshold=None. Set model.threshold to what "
            "kerasbig.vision.choose_threshold gives, or pass threshold=."
        )
    if not -1 <= chosen <= 1:
        raise ValueError(f"Expected a threshold from -1 to 1, a cosine. Received: threshold={chosen}")
    return float(chosen)


@dataclass(frozen=True)
class Match:
    """Who is on a photograph.

    Attributes:
        identity: The name; None where the nearest person is not near enough.
        similarity: The cosine to the nearest person.
        nearest: The name of that person in any case.
    """

    identity: str | None
    similarity: float
    nearest: str


class Gallery:
    """The people that faces are looked for among; new ones are enrolled without training.

    Each is one unit vector: the direction that the model learnt for a person it was trained on, the mean of the embeddings of
    a person that was enrolled. The search is exact.

    Args:
        model: A model from `face_classifier`.
        trained: Whether the people that it was trained on are in the gallery from the start.

    Raises:
        ValueError: If the model does not name them.

    Example:
        >>> from kerasbig.vision.face import face_classifier
        >>> model = face_classifier(("Ada", "Emmy"), size="lite-2", image_shape=(16, 16, 3))
        >>> gallery = Gallery(model)
        >>> gallery.enrol("Sofia", np.full((2, 20, 20, 3), 200, "uint8"))
        >>> gallery.names
        ('Ada', 'Emmy', 'Sofia')
    """

    def __init__(self, model: keras.Model, *, trained: bool = True):
        self.model = model
        self._sums: dict[str, np.ndarray] = {}
        self._known: dict[str, np.ndarray] = {}
        if trained:
            if getattr(model, "class_names", None) is None:
                raise ValueError(
                    "Expected model.class_names, the people that it was trained on. Received: none. Set them, or pass trained=False."
                )
            directions = np.asarray(model.get_layer("predictions").kernel, "float32").T
            self._known = dict(zip(model.class_names, directions, strict=True))

    @property
    def names(self) -> tuple[str, ...]:
        """All names, those trained on first."""
        return tuple({**self._known, **self._sums})

    @property
    def enrolled(self) -> tuple[str, ...]:
        """The names of those who were enrolled."""
        return tuple(self._sums)

    def enrol(self, name: str, images: Any) -> None:
        """Takes a person in, or takes more photographs of one who was enrolled.

        A person that the model was trained on is known by the new photographs from then on.

        Args:
            name: The person's name.
            images: Photographs of this person alone, as for `embed`.

        Raises:
            ValueError: If the name is empty or there is no photograph.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"Expected a name. Received: name={name!r}")
        if not len(images):
            raise ValueError(f"Expected at least one photograph to enrol {name!r}. Received: none.")
        self._sums[name] = self._sums.get(name, 0.0) + embed(self.model, images).sum(axis=0)

    def remove(self, name: str) -> None:
        """Takes a person out.

        Raises:
            KeyError: If there is none of that name.
        """
        if name not in self.names:
            raise KeyError(f"Expected a name in the gallery. Received: {name!r}.")
        self._sums.pop(name, None)
        self._known.pop(name, None)

    def identify(self, images: Any, top: int = 1, *, threshold: float | None = None) -> list[list[Match]]:
        """Finds who is on photographs.

        Args:
            images: N photographs, as for `embed`.
            top: How many people to name for each.
            threshold: From which similarity on a person is taken to be the one; by default the model's own, `model.threshold`.

        Returns:
            N lists of `top` matches (or as many as there are people), the most similar first.

        Raises:
            ValueError: If the gallery is empty, `top` is below 1, or there is no threshold.
        """
        if not self.names:
            raise ValueError("Expected someone in the gallery. Received: an empty one. Enrol people first.")
        if top < 1:
            raise ValueError(f"Expected top of at least 1. Received: top={top}")
        least = require_threshold(self.model, threshold)
        names = self.names
        vectors = tf.math.l2_normalize(np.stack([{**self._known, **self._sums}[name] for name in names]), axis=1)  # (P, D)
        similarities = tf.matmul(embed(self.model, images), vectors, transpose_b=True)  # (N, P)
        values, places = (each.numpy() for each in tf.math.top_k(similarities, min(top, len(names))))
        return [
            [Match(names[i] if value >= least else None, float(value), names[i]) for value, i in zip(*each, strict=True)]
            for each in zip(values, places, strict=True)
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes those who were enrolled as an .npz file, whole or not at all; those trained on are in the model.

        Args:
            path: The file to write or replace.
        """
        width = self.model.get_layer(EMBEDDING).output.shape[-1]
        sums = np.stack(list(self._sums.values())) if self._sums else np.zeros((0, width), "float32")
        hidden = [name for name in getattr(self.model, "class_names", None) or () if name not in self.names]
        with replacing_file(path) as temporary, open(temporary, "wb") as stream:
            np.savez(
                stream, names=np.array(self.enrolled, "U"), sums=sums.astype("float32"), removed=np.array(hidden, "U"), probe=self._probe()
            )

    @classmethod
    def read(cls, path: str | os.PathLike[str], model: keras.Model) -> Gallery:
        """Reads what `save` wrote.

        Args:
            path: The file.
            model: The model it was made with.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no gallery, or of another model.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"Expected a gallery at {str(file)!r}, but there is none. Save one with Gallery.save.")
        gallery = cls(model, trained=getattr(model, "class_names", None) is not None)
        names, sums, removed, probe = _read_arrays(file)
        own = gallery._probe()
        if probe.shape != own.shape or float(probe @ own) < PROBE_AGREEMENT:
            raise ValueError(
                f"Expected {str(file)!r} to be a gallery of this model. Received: one whose faces another model embedded. Enrol them again."
            )
        gallery._sums = dict(zip(names.tolist(), sums, strict=True))
        for name in removed.tolist():
            gallery._known.pop(name, None)
        return gallery

    def _probe(self) -> np.ndarray:
        """Embeds a picture that is always the same, (D,)."""
        ramp = np.arange(PROBE_SIDE * PROBE_SIDE * 3).reshape(1, PROBE_SIDE, PROBE_SIDE, 3)
        return embed(self.model, (ramp * 7 % 256).astype("uint8"))[0]


def _read_arrays(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Reads the arrays of a gallery: no pickles, and nothing packed that could become larger than the file."""
    wanted = ("names", "sums", "removed", "probe")
    try:
        with zipfile.ZipFile(file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its arrays are compressed")
        with np.load(file, allow_pickle=False) as arrays:
            names, sums, removed, probe = (arrays[name] for name in wanted)
        if names.dtype.kind != "U" or removed.dtype.kind != "U" or sums.shape != (len(names), *probe.shape) or probe.ndim != 1:
            raise ValueError("its arrays do not fit together")
        return names, sums, removed, probe
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"Expected {str(file)!r} to be a gallery as Gallery.save writes it. Received: {error}. Enrol the people again."
        ) from None
