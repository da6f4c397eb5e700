"""Back to a plain Keras model, with what was learnt in its kernels."""

from __future__ import annotations

import keras

from kerasbig.compress.rewiring import forget_traces, rewired_layers, unwire


def strip(model: keras.Model) -> keras.Model:
    """Takes clustering and quantization-aware training off a model and keeps their result in its kernels.

    Clustered kernels hold their centroids, quantized ones the values that int8 can hold. The model then has its own
    classes and variables again: it saves, loads and exports without kerasbig. A model that was only pruned is plain
    already and comes back as it is.

    Outputs stay equal, but for the rounding of inputs and outputs under quantization-aware training, which is no part
    of a plain model: take it along with `kerasbig.compress.ranges` before you strip.

    Args:
        model: A model from `cluster_weights` or `quantize_model`, or any other.

    Returns:
        The same model, to be compiled anew if it was compressed.

    Raises:
        TypeError: If `model` is not a Keras model.

    Example:
        >>> import keras
        >>> import kerasbig as kb
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
        >>> type(kb.compress.cluster_weights(model, 4).layers[0]).__name__
        'CompressedDense'
        >>> type(kb.compress.strip(model).layers[0]).__name__
        'Dense'
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model. Received: {type(model).__name__}.")
    layers = rewired_layers(model)
    for layer in layers:
        unwire(layer)
    if layers:
        forget_traces(model)
    return model
