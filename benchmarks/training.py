"""Training examples per second on the movie reviews: a KerasHub task's own `fit(x, y)` against `kerasbig train`.

    python benchmarks/training.py                          about 6 minutes
    python benchmarks/training.py --quick                  seconds: a tiny model, no download, figures mean nothing

Both sides fit the same checkpoint (`minilm-l6`) with the same AdamW at batch 32, in this process, in turns A B A B.

* A is `keras_hub.models.BertTextClassifier.fit(texts, labels)` as it comes: padded to 128 tokens, float32.
* B is what `kerasbig train text-classifier` runs: its task's model and batches, its optimizer, and the precision that it
  measures to be the fastest here.

Two more sides split the gain: padding alone (B in float32) and bfloat16 alone (A with `dtype="mixed_bfloat16"`).

One turn of B is a whole pool of 50 batches, of reviews drawn at random: what an epoch is made of, short batches and long
ones. A step of A costs the same whatever it holds, so a turn of it has fewer. Each side runs a turn that is not counted,
in which it traces its graph and meets every batch length; each counted turn leaves out its first step. The rate of a side
is the median over its turns, and a gain is the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import finish, load_tensorflow, note, parser, stand_in_preset, stand_in_table, table, verdict

TARGET, AIM = 4.0, 6.0
BATCH_SIZE = 32
ROUNDS = 4


@dataclass(frozen=True)
class Side:
    """One way to train.

    Attributes:
        label: For the table.
        turn: Trains a little and returns examples per second.
        warm_up: Does the same before any turn counts.
    """

    label: str
    turn: Callable[[], float]
    warm_up: Callable[[], Any]


def main() -> None:
    """Measures and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each of the two main sides (default %(default)s)")
    arguments = options.parse_args()
    load_tensorflow()
    with tempfile.TemporaryDirectory() as scratch:
        sides, facts = prepare(arguments, Path(scratch))
        for side in sides.values():
            note(f"warming up: {side.label}")
            side.warm_up()
        rates = measure(sides, 1 if arguments.quick else arguments.rounds)
    report(arguments, sides, rates, facts)


def prepare(arguments: argparse.Namespace, scratch: Path) -> tuple[dict[str, Side], dict[str, Any]]:
    """Loads the data and makes the sides."""
    from kerasbig.cli import fitting
    from kerasbig.cli.options import FitOptions
    from kerasbig.tasks import find_task

    data, preset = "movie_reviews", "minilm-l6"
    if arguments.quick:
        data, preset = str(stand_in_table(scratch / "reviews.csv", 400)), str(stand_in_preset(scratch / "preset"))
    options = FitOptions(task="text-classifier", data=data, preset=preset, batch_size=BATCH_SIZE)
    splits = fitting.load_splits(options)
    task = find_task(options.task)
    options = options.with_defaults(task.defaults).resolved(len(splits.train) // BATCH_SIZE, task.steps)
    precision = fitting.choose_precision(options, None, 384)
    note(f"precision: {precision}")
    few, many = (64, 128) if arguments.quick else (320, 50 * BATCH_SIZE)
    fixed = {"examples": sample(splits.train, few), "options": options}
    grouped = {"examples": sample(splits.train, many), "options": options}
    ours, padding = kerasbig_side("B  kerasbig train", policy=precision["policy"], **grouped)
    sides = {"kerashub": kerashub_side("A  KerasHub fit(x, y)", policy="float32", **fixed), "kerasbig": ours}
    if precision["policy"] != "float32":
        sides["padding_alone"] = kerasbig_side("   padding alone (B in float32)", policy="float32", **grouped)[0]
        sides["bfloat16_alone"] = kerashub_side("   bfloat16 alone (A in bfloat16)", policy=precision["policy"], **fixed)
    return sides, {"options": asdict(options), "precision": precision, "padding": padding}


def sample(examples: Any, count: int) -> Any:
    """Draws examples at random, the same ones each time."""
    import numpy as np

    chosen = np.random.default_rng(0).permutation(len(examples))[:count]
    rows = [examples.rows[i] for i in chosen]
    return replace(examples, inputs=[examples.inputs[i] for i in chosen], targets=examples.targets[chosen], rows=rows)


def kerashub_side(label: str, *, examples: Any, options: Any, policy: str) -> Side:
    """A KerasHub task as it comes; only the optimizer is ours, so that both sides do the same work in a step."""
    import keras_hub
    import numpy as np

    from kerasbig.data.presets import resolve_bert_preset

    folder = resolve_bert_preset(options.preset)
    model = keras_hub.models.BertTextClassifier.from_preset(folder, num_classes=len(examples.classes), dtype=policy)
    model.preprocessor.sequence_length = options.sequence_length
    model.compile(optimizer=optimizer(options, len(examples)))
    texts = np.array(examples.inputs)

    def fit(count: int) -> float:
        clock = step_clock()
        model.fit(texts[:count], examples.targets[:count], batch_size=options.batch_size, verbose=0, callbacks=[clock])
        return clock.steady_rate(options.batch_size)

    return Side(label, lambda: fit(len(texts)), lambda: fit(3 * options.batch_size))


def kerasbig_side(label: str, *, examples: Any, options: Any, policy: str) -> tuple[Side, dict[str, float]]:
    """What `kerasbig train` builds, batches and compiles."""
    from kerasbig.tasks import find_task

    task = find_task(options.task)
    model = task.build(examples.classes, examples, {**asdict(options), "dtype": policy})
    train = task.batches(examples, model, batch_size=options.batch_size, seed=options.seed)
    task.compile(model, optimizer(options, len(examples)))
    padding = {"fraction": train.padding.fraction, "fixed_over_computed_tokens": train.padding.fixed_tokens / train.padding.computed_tokens}

    def fit() -> float:
        clock = step_clock()
        model.fit(train, shuffle=False, verbose=0, callbacks=[clock])
        return clock.steady_rate(options.batch_size)

    return Side(label, fit, fit), padding


def optimizer(options: Any, examples: int) -> Any:
    """The optimizer of `kerasbig train`, with a schedule long enough for all turns."""
    from kerasbig.cli import fitting

    return fitting.make_optimizer(options, 100 * examples // options.batch_size)


def step_clock() -> Any:
    """Returns a Keras callback that notes when each step ends."""
    import keras

    class StepClock(keras.callbacks.Callback):
        def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
            self.ends: list[float] = []

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            self.ends.append(time.perf_counter())

        def steady_rate(self, batch_size: int) -> float:
            """Examples per second from the end of the first step to the end of the last."""
            return batch_size * (len(self.ends) - 1) / (self.ends[-1] - self.ends[0])

    return StepClock()


def measure(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Lets the sides take turns; the split of the gain takes part in every second round."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            if name in ("kerashub", "kerasbig") or number % 2 == 0:
                rates[name].append(side.turn())
                note(f"round {number + 1} of {rounds}: {side.label.strip()}: {rates[name][-1]:.1f} examples/s")
    return rates


def gains(rates: dict[str, list[float]]) -> dict[str, float]:
    """Returns the median over the rounds of each side's rate against KerasHub's in the same round."""
    base = rates["kerashub"]
    found = {}
    for name, own in rates.items():
        same_rounds = base if len(own) == len(base) else base[::2]
        found[name] = statistics.median(rate / other for rate, other in zip(own, same_rounds, strict=True))
    return found


def report(arguments: argparse.Namespace, sides: dict[str, Side], rates: dict[str, list[float]], facts: dict[str, Any]) -> None:
    """Prints the table and the JSON."""
    gain = gains(rates)
    options, padding = facts["options"], facts["padding"]
    print(f"{options['data']}, {options['preset']}, batch {BATCH_SIZE}; B in {facts['precision']['policy']},")
    print(
        f"{padding['fraction']:.1%} of its tokens are padding, and it computes {padding['fixed_over_computed_tokens']:.1f}x fewer than A\n"
    )
    rows = [
        [side.label, f"{statistics.median(rates[name]):.1f}", f"{min(rates[name]):.1f} to {max(rates[name]):.1f}", f"{gain[name]:.2f}x"]
        for name, side in sides.items()
    ]
    table(["side", "examples/s", "range", "gain"], rows)
    result = {"examples_per_second": rates, "gain": gain, **facts}
    wanted = [
        verdict("gain over KerasHub's fit", gain["kerasbig"], ">=", TARGET, "x"),
    ]
    print(f"The aim is {AIM:g}x: {'reached' if gain['kerasbig'] >= AIM else 'not reached'}.\n")
    finish("training", arguments, result, wanted)


if __name__ == "__main__":
    main()
