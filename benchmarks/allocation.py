"""What a training costs by how TensorFlow gets memory: malloc, malloc after a generator, kept by itself; without XLA and with it.

    python benchmarks/allocation.py                   three rounds: ten minutes
    python benchmarks/allocation.py --rounds 5
    python benchmarks/allocation.py --quick           a few steps: figures mean nothing

A process of its own trains the command line's ViT in float32 on 28 x 28 images in batches of 64 from `kerasbig.data.batches`, which use
no generator. "After a generator": `tf.data.Dataset.from_generator` has given one number in this process, whereupon TensorFlow sets
M_TRIM_THRESHOLD. "Memory kept": TF_CPU_ALLOCATOR_USE_BFC=1 is in the environment, as `kerasbig train` sets it. The kinds take turns. A
figure is the median over the rounds; page faults, processor and system time are those of the steps alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from common import finish, load_tensorflow, note, parser, table, verdict

KINDS = ("malloc", "malloc, after a generator", "memory kept", "XLA, malloc", "XLA, memory kept")
# Which of two is to be as fast as the other at least.
COMPARED = (
    ("malloc", "malloc, after a generator"),
    ("memory kept", "malloc"),
    ("XLA, memory kept", "XLA, malloc"),
    ("XLA, memory kept", "malloc"),
)
IMAGES, BATCH_SIZE, SIDE = 1920, 64, 28


def main() -> None:
    """Measures in turns and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="default: 3")
    options.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.kind:
        print(json.dumps(train(arguments.kind, quick=arguments.quick)))
        return
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(1 if arguments.quick else arguments.rounds):
        for kind, figures in found.items():
            command = [sys.executable, __file__, "--kind", kind, *(["--quick"] if arguments.quick else [])]
            kept = {"TF_CPU_ALLOCATOR_USE_BFC": "1" if "kept" in kind else "0"}
            done = subprocess.run(command, env=os.environ | kept, stdout=subprocess.PIPE, text=True, check=True)
            figures.append(json.loads(done.stdout.splitlines()[-1]))
            note(f"round {number + 1}, {kind}: {figures[-1]['images_per_second']:.0f} images/s")
    medians = {kind: {name: statistics.median(one[name] for one in figures) for name in figures[0]} for kind, figures in found.items()}
    rows = [[kind, *(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in row.values())] for kind, row in medians.items()]
    table(["training", *(name.replace("_", " ") for name in medians[KINDS[0]])], rows)
    gains = {}
    for ours, theirs in COMPARED:
        pairs = zip(found[ours], found[theirs], strict=True)
        gains[f"{ours}, against {theirs}"] = statistics.median(a["images_per_second"] / b["images_per_second"] for a, b in pairs)
    verdicts = [verdict(name, gain, ">=", 1.0, "x") for name, gain in gains.items()]
    finish("allocation", arguments, {"rows": medians, "gains": gains}, verdicts)


def train(kind: str, *, quick: bool) -> dict[str, float]:
    """Trains in this process and returns what one step needs."""
    import resource

    load_tensorflow()
    import keras
    import numpy as np
    import tensorflow as tf

    import kerasbig as kb

    if "generator" in kind:
        list(tf.data.Dataset.from_generator(lambda: [1], output_signature=tf.TensorSpec((), tf.int32)))
    keras.utils.set_random_seed(0)
    random, count = np.random.default_rng(0), 2 * BATCH_SIZE if quick else IMAGES
    classes, targets = ("a", "b"), (np.arange(count) % 2).astype("int32")
    images = random.integers(0, 256, (count, SIDE, SIDE, 3)).astype("uint8")
    examples = kb.data.Examples(images, targets, classes, list(range(count)), "made", "train")
    model = kb.vision.vit_classifier(classes, size="lite-2", image_shape=(SIDE, SIDE, 3), patch_size=4, stem=True, pooling="gap")
    kb.vision.compile_image_classifier(model, kb.distribute.AdamW(1e-3))
    model.jit_compile = kind.startswith("XLA")
    data = kb.data.batches(examples, model, batch_size=BATCH_SIZE)
    model.fit(data, epochs=1, shuffle=False, verbose=0)  # traces
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    model.fit(data, epochs=1, shuffle=False, verbose=0)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    steps = len(data)
    spent: dict[str, Any] = {
        "images_per_second": count / seconds,
        "user_ms_a_step": (after.ru_utime - before.ru_utime) / steps * 1000,
        "system_ms_a_step": (after.ru_stime - before.ru_stime) / steps * 1000,
        "page_faults_a_step": (after.ru_minflt - before.ru_minflt) / steps,
    }
    return spent


if __name__ == "__main__":
    main()
