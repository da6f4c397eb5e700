"""Fits every builder on another backend of Keras: `KERAS_BACKEND=jax python tests/fit_on_backend.py FOLDER`.

FOLDER holds NAME.start.npz with the weights to begin with; this writes NAME.weights.h5, as a user would, and NAME.npz
with the losses and with the logits of one batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from builders import ONE_OF_EACH, Built

import kerasbig as kb


def without_dropout(model: keras.Model) -> None:
    """Sets every dropout to nothing: random numbers differ between backends."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0


def optimizer() -> keras.optimizers.Optimizer:
    """Returns Adam with an epsilon above what rounding leaves: where a gradient is but rounding, Adam would make whole steps of it."""
    return kb.distribute.AdamW(1e-3, epsilon=1e-4)


def in_one_order(built: Built) -> tf.data.Dataset:
    """Returns the data without shuffling: JAX looks at a batch beforehand, which moves the order on."""
    examples = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *built.batches.as_numpy_iterator())
    return tf.data.Dataset.from_tensor_slices(examples).batch(8)


def main() -> None:
    folder = Path(sys.argv[1])
    for number, build in enumerate(ONE_OF_EACH.values()):
        built = build()
        without_dropout(built.model)
        with np.load(folder / f"{number}.start.npz") as start:
            built.model.set_weights([start[f"{i:03d}"] for i in range(len(start.files))])
        built.model.compile(optimizer(), built.loss)
        losses = built.model.fit(in_one_order(built), epochs=3, shuffle=False, verbose=0).history["loss"]
        built.model.save_weights(folder / f"{number}.weights.h5")
        # Compiled as a whole: called, JAX compiles each operation by itself. Keras's own, since KerasHub's would tokenize once more.
        answers = keras.Model.predict_on_batch(built.model, keras.tree.map_structure(np.asarray, built.inputs))
        np.savez(folder / f"{number}.npz", losses=losses, logits=answers)


if __name__ == "__main__":
    main()
