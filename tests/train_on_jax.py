"""Trains on 8 simulated devices of the JAX backend and on one: `python tests/train_on_jax.py OUT.json`.

The caller sets KERAS_BACKEND=jax and XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import keras
import keras_hub
import numpy as np

VOCABULARY, LENGTH = 4096, 16
# Layers and width that train in seconds (most of them compile), and those of the size small, which are only placed.
TRAINED, SMALL = (1, 64), (4, 512)


def bert(layers: int, width: int) -> keras.Model:
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=VOCABULARY, num_layers=layers, num_heads=4, hidden_dim=width, intermediate_dim=4 * width, dropout=0.0,
        max_sequence_length=LENGTH,
    )  # fmt: skip
    return keras_hub.models.BertTextClassifier(backbone, num_classes=2, dropout=0.0)


def gpt(layers: int, width: int) -> keras.Model:
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=VOCABULARY, num_layers=layers, num_heads=4, hidden_dim=width, intermediate_dim=4 * width, dropout=0.0,
        max_sequence_length=LENGTH,
    )  # fmt: skip
    return keras_hub.models.GPT2CausalLM(backbone)


def vit(layers: int, width: int) -> keras.Model:
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=4, num_layers=layers, num_heads=4, hidden_dim=width, mlp_dim=4 * width,
        dropout_rate=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return keras_hub.models.ViTImageClassifier(backbone, num_classes=2, dropout=0.0)


MODELS: dict[str, Callable[[int, int], keras.Model]] = {"bert": bert, "gpt": gpt, "vit": vit}


def data(name: str) -> tuple[object, np.ndarray]:
    random = np.random.default_rng(0)
    labels = (np.arange(32) % 2).astype("int32")
    if name == "vit":
        return random.normal(size=(32, 16, 16, 3)).astype("float32"), labels
    ids, mask = random.integers(1, VOCABULARY, (32, LENGTH)).astype("int32"), np.ones((32, LENGTH), "int32")
    if name == "gpt":
        return {"token_ids": ids, "padding_mask": mask}, np.roll(ids, -1, axis=1)
    return {"token_ids": ids, "padding_mask": mask, "segment_ids": np.zeros_like(ids)}, labels


def losses(name: str, model: keras.Model) -> list[float]:
    model.preprocessor = None
    model.compile(keras.optimizers.AdamW(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = data(name)
    return model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"]


def main() -> None:
    import kerasbig as kb

    out = {}
    for name, build in MODELS.items():
        keras.utils.set_random_seed(1)
        one = build(*TRAINED)
        start = one.get_weights()
        one_losses = losses(name, one)
        cut = kb.distribute.model_parallel(lambda build=build: build(*TRAINED), (2, 4))
        cut.set_weights(start)
        cut_losses = losses(name, cut)
        placement = kb.distribute.model_parallel(lambda build=build: build(*SMALL), (2, 4)).placement
        out[name] = {
            "one": one_losses,
            "cut": cut_losses,
            "bytes": [placement.bytes_a_device, placement.bytes_total],
            "coverage": placement.coverage,
        }
        keras.distribution.set_distribution(None)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(out, file)


if __name__ == "__main__":
    main()
