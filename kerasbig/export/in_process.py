"""Keras models asked as their SavedModels are: one compiled function from raw inputs to answers, with nothing written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kerasbig.export.detector_graph import detector_graph, detector_signatures
from kerasbig.export.generator_predictors import KerasGenerator
from kerasbig.export.image_graph import ImageGraph, classifier_signatures
from kerasbig.export.image_predictors import detect_in_graph, in_batches
from kerasbig.export.predictors import texts_in_batches
from kerasbig.export.signatures import text_to_logits
from kerasbig.export.twin import class_names_of

# Tokens that a generator is timed over.
WRITTEN = 32


def compiled(model: keras.Model) -> Callable[[Sequence[Any]], Any]:
    """Returns what a model of KerasHub answers to raw inputs, as one function of the graph.

    Args:
        model: A text classifier, an image or face classifier, a detector of `kerasbig.vision.vit_detector` or a generator of
            `kerasbig.text.gpt_generator`, with its preprocessor.

    Returns:
        From N texts, or N images (paths, bytes of files, uint8 (h, w, 3) arrays), to float32 (N, C) logits; of a detector
        to the boxes of each, as `predict` of an exported one gives them; of a generator to `WRITTEN` tokens after each text.

    Raises:
        TypeError: If the model has no preprocessor, or is of a family of generators that cannot be exported.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(["a film"], 60))
        >>> compiled(model)(["a film", "film"]).shape
        (2, 2)
    """
    preprocessor = getattr(model, "preprocessor", None)
    if preprocessor is None:
        raise TypeError(f"Expected a KerasHub task with its preprocessor. Received: {type(model).__name__} with preprocessor=None.")
    if hasattr(model, "generate"):
        return partial(KerasGenerator(model).generate, max_tokens=WRITTEN)
    names, width = class_names_of(model) or (), int(model.output.shape[-1])
    if getattr(preprocessor, "image_converter", None) is None:
        of_texts = text_to_logits(model)
        return lambda texts: texts_in_batches(lambda some: of_texts(tf.constant(some)).numpy(), texts, width)
    if hasattr(model, "pyramid"):
        detect = detector_signatures(ImageGraph(model), detector_graph(model), names)["detect"]
        return lambda images: detect_in_graph(detect, images, names)
    of_images = classifier_signatures(ImageGraph(model), names)["logits"]
    return lambda images: in_batches(lambda files: of_images(image=tf.constant(files))["logits"].numpy(), images, width)
