"""What pruning and training for int8 add to a training step: a 6-layer, 384-wide BERT with random weights.

    python benchmarks/step_cost.py                    five rounds: minutes
    python benchmarks/step_cost.py --rounds 9
    python benchmarks/step_cost.py --quick            under a minute: a tiny model, figures mean nothing

The same model trains as it is, with `Pruning` (masks updated every 10 steps, as `sparsity=` does in 400 steps) and, after
`quantize_model`, for int8. A round is one pass of each over the same batches, so that a busy machine is busy for all; a
figure is the median over the rounds of the time against the plain pass of the same round.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any

from common import finish, load_tensorflow, note, parser, stand_in_lines, table, verdict

STEPS = 20
BATCH_SIZE = 32
TOKENS = 32


def main() -> None:
    """Measures in turns and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="default: 5")
    options.add_argument("--precision", default="float32", help="a Keras dtype policy; default: float32")
    arguments = options.parse_args()
    load_tensorflow()
    passes = {name: make_pass(name, arguments) for name in ("plain", "pruning", "int8")}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(2 if arguments.quick else arguments.rounds):
        for name, one_pass in passes.items():
            seconds[name].append(one_pass())
        note(f"round {number + 1}: " + ", ".join(f"{name} {values[-1] * 1000:.0f} ms a step" for name, values in seconds.items()))
    ratios = against_plain(seconds)
    rows = [[name, f"{statistics.median(values) * 1000:.0f}", f"{ratios[name]:.3f}"] for name, values in seconds.items()]
    table(["step", "ms", "against plain"], rows)
    verdicts = [
        verdict("a step with Pruning against a plain one", ratios["pruning"], "<=", 1.05, "x"),
        verdict("a step for int8 against a plain one", ratios["int8"], "<=", 1.6, "x"),
    ]
    finish("step_cost", arguments, {"precision": arguments.precision, "seconds": seconds, "ratios": ratios}, verdicts)


def against_plain(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Returns for each kind the median over the rounds of its time against the plain one's."""
    return {name: statistics.median(a / b for a, b in zip(values, seconds["plain"], strict=True)) for name, values in seconds.items()}


def make_pass(name: str, arguments: argparse.Namespace) -> Any:
    """Returns a function that fits some steps, traced already, and returns the seconds of one step."""
    import keras
    import keras_hub
    import numpy as np
    import tensorflow as tf

    import kerasbig as kb

    keras.utils.set_random_seed(0)
    vocabulary = kb.text.learn_wordpiece(stand_in_lines(200)[0], 200)
    shape = {"num_layers": 2, "hidden_dim": 128, "num_heads": 2, "intermediate_dim": 512}
    if not arguments.quick:
        shape = {"num_layers": 6, "hidden_dim": 384, "num_heads": 12, "intermediate_dim": 1536}
    backbone = keras_hub.models.BertBackbone(30522, max_sequence_length=TOKENS, dtype=arguments.precision, **shape)
    tokenizer = keras_hub.tokenizers.BertTokenizer(vocabulary)
    model = keras_hub.models.BertTextClassifier(backbone, 2, keras_hub.models.BertTextClassifierPreprocessor(tokenizer, TOKENS))
    model.class_names = ("negative", "positive")
    random = np.random.default_rng(0)
    ids = random.integers(5, 30522, (BATCH_SIZE, TOKENS)).astype("int32")
    inputs = {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": np.ones_like(ids)}
    batch = tf.data.Dataset.from_tensors((inputs, random.integers(0, 2, BATCH_SIZE))).repeat()
    if name == "int8":
        kb.compress.quantize_model(model, calibration=[inputs])
    kb.text.compile_classifier(model, kb.distribute.AdamW(1e-5))
    callbacks = []
    if name == "pruning":
        schedule = kb.compress.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=10**6, frequency=10)
        callbacks = [kb.compress.Pruning(schedule)]
    model.preprocessor = None  # batches are token ids already

    def one_pass() -> float:
        clock = _Clock()
        model.fit(batch, steps_per_epoch=STEPS, epochs=1, verbose=0, callbacks=[*callbacks, clock.callback])
        return clock.seconds / STEPS

    warnings.simplefilter("ignore")  # the schedule is meant to go on beyond these few steps
    one_pass()
    return one_pass


class _Clock:
    """The time from the first step's beginning to the last one's end, what callbacks do between the steps included."""

    def __init__(self) -> None:
        import keras

        self.seconds = 0.0
        self._began: float | None = None

        def begin(batch: int, logs: Any) -> None:
            self._began = self._began or time.perf_counter()

        def end(batch: int, logs: Any) -> None:
            self.seconds = time.perf_counter() - (self._began or 0.0)

        self.callback = keras.callbacks.LambdaCallback(on_train_batch_begin=begin, on_train_batch_end=end)


if __name__ == "__main__":
    main()
