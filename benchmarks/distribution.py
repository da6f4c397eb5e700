"""What a strategy costs: examples per second, time in the all-reduce, and scaling; then the scaling to expect on 8 to 512 devices.

    python benchmarks/distribution.py
    python benchmarks/distribution.py --size medium --batch-size 16 --gigabits 10 25 100 400

Each form trains a BERT at 64 tokens in processes of their own, with 16 examples a replica: one device on one thread, two
replicas in one process, two workers on one thread each, and one device on all threads for comparison. The all-reduce is
timed alone, over tensors of the size of the model's gradients. The forms take turns. The expected scaling is reckoned from the one
device's step and the stated bandwidths, as docs/scaling.md explains; nothing of it was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import finish, load_tensorflow, note, parser, stand_in_lines, table

# Label, strategy, replicas in a process, processes, threads of a process (0: all).
FORMS: dict[str, tuple[str, str, int, int, int]] = {
    "one": ("one device, one thread", "one", 1, 1, 1),
    "all_threads": ("one device, all threads", "one", 1, 1, 0),
    "replicas": ("two replicas in one process", "mirrored", 2, 1, 0),
    "workers": ("two workers, one thread each", "multi_worker", 1, 2, 1),
}
DEVICES = (8, 64, 512)
# Of one message over a data centre's network; a ring sends 2 (N - 1) of them one after the other.
LATENCY_SECONDS = 20e-6


def main() -> None:
    """Runs the benchmark, or one process of it."""
    made = parser(__doc__)
    made.add_argument("--size", default="small", help="size of the model: tiny, mini, small, medium or base")
    made.add_argument("--batch-size", type=int, default=16, help="examples of one replica in a step")
    made.add_argument("--steps", type=int, default=12, help="timed steps of a turn")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--gigabits", type=float, nargs="+", default=[10.0, 25.0, 100.0, 400.0], help="bandwidths to reckon with, in Gbit/s")
    made.add_argument("--child", help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    if arguments.quick:
        arguments.size, arguments.steps, arguments.rounds = "tiny", 3, 1
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in FORMS}
    for number in range(arguments.rounds):
        for name in FORMS:
            turns[name].append(turn(name, arguments))
            note(f"round {number + 1} of {arguments.rounds}: {FORMS[name][0]}: {turns[name][-1]['examples_per_second']:.1f} examples/s")
    report(arguments, {name: {key: statistics.median(one[key] for one in found) for key in found[0]} for name, found in turns.items()})


def turn(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Runs one form once and returns what its first process measured."""
    from kerasbig.distribute.launching import launch

    _, strategy, replicas, processes, threads = FORMS[name]
    with tempfile.TemporaryDirectory() as folder:
        plan = {
            "strategy": strategy,
            "replicas": replicas,
            "threads": threads,
            "size": arguments.size,
            "global_batch": arguments.batch_size * replicas * processes,
            "steps": arguments.steps,
            "out": f"{folder}/out.json",
        }
        command = [sys.executable, os.path.abspath(__file__), "--child", json.dumps(plan)]
        if processes > 1:
            code = launch(command, processes, folder, restarts=0)
        else:
            with open(f"{folder}/worker-0.log", "wb") as log:
                code = subprocess.run(command, stdout=log, stderr=log).returncode
        if code:
            raise SystemExit(f"{name} ended with exit code {code}:\n" + Path(folder, "worker-0.log").read_text(encoding="utf-8")[-2000:])
        return json.loads(Path(plan["out"]).read_text(encoding="utf-8"))


def child(plan: dict[str, Any]) -> None:
    """Trains under one strategy; the first worker writes the figures."""
    load_tensorflow()
    import tensorflow as tf

    import kerasbig as kb

    if plan["threads"]:
        tf.config.threading.set_intra_op_parallelism_threads(plan["threads"])
        tf.config.threading.set_inter_op_parallelism_threads(plan["threads"])
    strategy = kb.distribute.strategy(plan["strategy"], replicas=plan["replicas"] if plan["strategy"] == "mirrored" else None)
    lines, labels = stand_in_lines(plan["global_batch"] * (plan["steps"] + 1))
    classes = ("negative", "positive")
    with strategy.scope():
        model = kb.text.bert_classifier(classes, size=plan["size"], vocabulary=kb.text.learn_wordpiece(lines, 120), sequence_length=64)
        model.compile(kb.distribute.AdamW(1e-4), "sparse_categorical_crossentropy", jit_compile=False)
    import numpy as np

    examples = kb.data.Examples(
        lines, np.array([classes.index(label) for label in labels], "int32"), classes, [*range(len(lines))], "", "train"
    )
    from training import step_clock

    clock = step_clock()
    train = kb.data.batches(examples, model, batch_size=plan["global_batch"], lengths=(64,))
    model.fit(train, epochs=1, shuffle=False, verbose=0, callbacks=[clock])
    rate = clock.steady_rate(plan["global_batch"])
    found = {
        "examples_per_second": rate,
        "step_ms": 1000 * plan["global_batch"] / rate,
        "all_reduce_ms": 1000 * all_reduce_seconds(strategy, [variable.shape for variable in model.trainable_variables]),
        "gradient_bytes": 4.0 * sum(int(np.prod(variable.shape)) for variable in model.trainable_variables),
    }
    if kb.distribute.is_chief(strategy):
        Path(plan["out"]).write_text(json.dumps(found), encoding="utf-8")


def all_reduce_seconds(strategy: Any, shapes: list[Any], repeats: int = 8) -> float:
    """Returns the median time of summing tensors of these shapes over all replicas, the first two times left out."""
    import tensorflow as tf

    if strategy.num_replicas_in_sync == 1:
        return 0.0

    @tf.function
    def reduce_all() -> Any:
        def one_replica() -> Any:
            gradients = [tf.ones(shape) for shape in shapes]
            summed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            return tf.add_n([tf.reduce_sum(gradient[:1]) for gradient in summed])  # a result, so that nothing is left out

        return strategy.run(one_replica)

    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        reduce_all()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def expected_efficiency(step_seconds: float, gradient_bytes: float, devices: int, gigabits: float) -> float:
    """Returns the share of a device's own rate that it keeps beside others, from 0 to 1.

    A ring sends each device's gradients round in 2 (N - 1) messages of 1/N of them (Patarasuk and Yuan, 2009,
    doi:10.1016/j.jpdc.2008.09.002); here the step waits for it, since clipping and weighting need the sum.
    """
    messages = 2 * (devices - 1)
    ring = messages * (gradient_bytes / devices / (gigabits * 1e9 / 8) + LATENCY_SECONDS)
    return step_seconds / (step_seconds + ring)


def report(arguments: argparse.Namespace, found: dict[str, dict[str, float]]) -> None:
    """Prints what was measured, what is expected, and the JSON."""
    base = found["one"]["examples_per_second"]
    rows = []
    for name, (label, *_) in FORMS.items():
        one = found[name]
        share = f"{one['all_reduce_ms'] / one['step_ms']:.0%}" if one["all_reduce_ms"] else "-"
        speed = f"{one['examples_per_second'] / base:.2f}x"
        rows.append(
            [label, f"{one['examples_per_second']:.1f}", f"{one['step_ms']:.0f} ms", f"{one['all_reduce_ms']:.1f} ms", share, speed]
        )
    table([f"BERT {arguments.size}, 64 tokens", "examples/s", "step", "all-reduce", "of the step", "scaling"], rows)
    step, size = found["one"]["step_ms"] / 1000, found["one"]["gradient_bytes"]
    expected = {
        f"{gigabits:g} Gbit/s": {devices: expected_efficiency(step, size, devices, gigabits) for devices in DEVICES}
        for gigabits in arguments.gigabits
    }
    print(f"Expected (not measured): {size / 1e6:.1f} MB of gradients, {step * 1000:.0f} ms a step, ring all-reduce after it")
    table(
        ["bandwidth of a device", *(f"{devices} devices" for devices in DEVICES)],
        [[name, *(f"{devices * share:.1f}x ({share:.0%})" for devices, share in row.items())] for name, row in expected.items()],
    )
    finish("distribution", arguments, {"size": arguments.size, "batch_size": arguments.batch_size, "measured": found, "expected": expected})


if __name__ == "__main__":
    main()
