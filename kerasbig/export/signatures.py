"""Raw texts to tensors inside the graph, and the signatures that are exported.

Shapes: B texts, T tokens of the longest text, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras_hub
import tensorflow as tf

TEXT = tf.TensorSpec((None,), tf.string, name="text")


def trim(features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Cuts the columns that are padding in every row, so that short texts cost little.

    Args:
        features: `token_ids`, `segment_ids` and `padding_mask`, each (B, sequence_length).

    Returns:
        The same as int32 (B, T), with T at least 1.

    Example:
        >>> row = tf.constant([[2, 7, 3, 0, 0]])
        >>> trim({"token_ids": row, "padding_mask": row != 0})["token_ids"].numpy().tolist()
        [[2, 7, 3]]
    """
    mask = tf.cast(features["padding_mask"], tf.int32)
    # The place of the last real token rather than their number: a padding token may stand inside a text.
    longest = tf.reduce_max(mask * tf.range(1, tf.shape(mask)[1] + 1))
    # The maximum over no rows at all is the smallest integer.
    longest = tf.maximum(longest, 1)
    return {name: tf.cast(value, tf.int32)[:, :longest] for name, value in features.items()}


def text_to_logits(model: keras_hub.models.BertTextClassifier) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from string (B,) to float32 logits (B, C), tokenizer included.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(["a film"], 60))
        >>> text_to_logits(model)(tf.constant(["a film", "film"])).shape.as_list()
        [2, 2]
    """

    @tf.function(input_signature=[TEXT], autograph=False)
    def logits(text: tf.Tensor) -> tf.Tensor:
        return tf.cast(model(trim(model.preprocessor(text)), training=False), tf.float32)

    return logits


def signatures(
    model: keras_hub.models.BertTextClassifier, class_names: tuple[str, ...] | None
) -> dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]]:
    """Returns the exported functions by the names of their signatures.

    Args:
        model: A float32 classifier with its preprocessor.
        class_names: Names in the order of the logits; None for regression.

    Returns:
        `serving_default`: string `text` (B,) to `label` (B,), `label_id` int32 (B,) and `probabilities` float32 (B, C),
        or to `value` float32 (B,) for regression. `logits`: string `text` (B,) to `logits` float32 (B, C).
    """
    compute = text_to_logits(model)

    def answer(text: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = compute(text)
        if class_names is None:
            return {"value": logits[:, 0]}
        label_id = tf.argmax(logits, axis=-1, output_type=tf.int32)
        return {"label": tf.gather(tf.constant(class_names), label_id), "label_id": label_id, "probabilities": tf.nn.softmax(logits)}

    def raw(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": compute(text)}

    return {"serving_default": answer, "logits": raw}
