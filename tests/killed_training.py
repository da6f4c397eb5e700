"""A training that kills itself at the places that a plan names: `python tests/killed_training.py PLAN.json FOLDER`.

Dropout and shuffling are on. Each kill happens once: a marker file says that it did. With TF_CONFIG it is one worker of
several, else it trains alone. The chief writes `weights.npz` at the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

# What Keras imports for its wrappers and plots is a third of a start; nothing here needs it.
sys.modules |= dict.fromkeys(("sklearn", "scipy", "pandas", "matplotlib", "jax"))

import keras
import keras_hub
import numpy as np

FOLDER = Path(sys.argv[2])


class Kills(keras.callbacks.Callback):
    """Sends this process a signal in a step, in an evaluation, or while the state is written."""

    def __init__(self, plan: list[dict[str, Any]], worker: int):
        super().__init__()
        self.plan = [kill for kill in plan if kill["worker"] == worker]
        self.epoch = self.step = 0

    def at(self, place: str) -> None:
        for kill in self.plan:
            marker = FOLDER / f"killed-{kill['worker']}-{kill['place']}-{kill['epoch']}-{kill['step']}"
            if (place, self.epoch, self.step) == (kill["place"], kill["epoch"], kill["step"]) and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), getattr(signal, kill["signal"]))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step = batch + 1
        self.at("step")

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step = batch + 1
        self.at("evaluation")


def small(preprocessor: Any) -> keras.Model:
    """Words, their mean and two classes: each of many starts has to trace it anew."""
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "segment_ids", "padding_mask")}
    words = keras.layers.Embedding(preprocessor.tokenizer.vocabulary_size(), 16)(inputs["token_ids"])  # (B, T, 16)
    seen = keras.layers.Dropout(0.1)(words) * keras.ops.cast(inputs["padding_mask"], "float32")[..., None]
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.ops.mean(seen, axis=1)))
    model.preprocessor = preprocessor
    return model


def main() -> None:
    import kerasbig as kb

    strategy = kb.distribute.strategy("auto")
    from conftest import review_lines

    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    lines, targets = review_lines(40)
    examples, held_out = (
        kb.data.Examples(lines[part], targets[part], ("negative", "positive"), list(range(40))[part], "made.csv", role)
        for part, role in ((slice(32), "train"), (slice(32, 40), "validation"))
    )
    keras.utils.set_random_seed(3)
    tokenizer = keras_hub.tokenizers.BertTokenizer(kb.text.learn_wordpiece(lines, 120))
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=16)
    with strategy.scope():
        model = small(preprocessor)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(kb.distribute.AdamW(1e-3, weight_decay=0.01), loss, metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")])
    kills = Kills(plan, kb.distribute.worker_number(strategy))
    resume = kb.distribute.Resume(FOLDER, every_steps=1)
    write = np.savez

    def savez(file: Any, **arrays: Any) -> None:
        write(file, **dict(list(arrays.items())[:5]))
        file.flush()
        kills.at("save")  # with half of the file written
        file.seek(0)
        write(file, **arrays)

    np.savez = savez
    train, validation = kb.data.batches(examples, model, batch_size=8), kb.data.batches(held_out, model, batch_size=4)
    model.fit(train, validation_data=validation, epochs=4, verbose=0, callbacks=[kills, resume])
    if kb.distribute.is_chief(strategy):
        weights = {f"{number:03d}": np.asarray(weight) for number, weight in enumerate(model.get_weights())}
        write(FOLDER / "weights.npz", history=json.dumps(resume.history), **weights)


if __name__ == "__main__":
    main()
