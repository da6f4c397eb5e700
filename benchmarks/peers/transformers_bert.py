"""Fine-tunes a BERT with PyTorch + transformers, for `benchmarks/accuracy.py` to compare with.

    python benchmarks/peers/transformers_bert.py JOB.json RESULT.json

It runs in an environment of its own, with torch and transformers and without KerasBig. The job holds the checkpoint's
folder, the splits and the options; the result holds accuracy and loss on the test split.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional

POOL_BATCHES = 50  # as transformers' LengthGroupedSampler: batches that are sorted by length together
EVALUATION_BATCH = 64


def main() -> None:
    """Reads the job, trains, measures and writes the result."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("job", type=Path)
    options.add_argument("result", type=Path)
    arguments = options.parse_args()
    job = json.loads(arguments.job.read_text(encoding="utf-8"))
    seed = job["options"]["seed"]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["checkpoint"])
    splits = {role: tokenized(tokenizer, part, job["options"]["sequence_length"]) for role, part in job["splits"].items()}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        job["checkpoint"], num_labels=job["classes"], classifier_dropout=job["options"]["dropout"]
    )
    started = time.perf_counter()
    history = train(model, splits, job)
    fit_seconds = time.perf_counter() - started
    result = {
        **measure(model, *splits["test"]),
        "fit_seconds": round(fit_seconds, 1),
        "history": history,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": torch.get_num_threads(),
    }
    arguments.result.write_text(json.dumps(result), encoding="utf-8")


def tokenized(tokenizer: Any, part: dict[str, list], sequence_length: int) -> tuple[list[list[int]], np.ndarray]:
    """Returns the token ids of each text, cut but not padded, and the targets."""
    tokenizer.backend_tokenizer.no_padding()
    encoded = tokenizer(part["inputs"], truncation=True, max_length=sequence_length, padding=False)
    return encoded["input_ids"], np.array(part["targets"])


def train(model: Any, splits: dict[str, tuple[list[list[int]], np.ndarray]], job: dict[str, Any]) -> list[dict[str, float]]:
    """Trains, leaves the weights of the epoch with the lowest validation loss, and returns the history."""
    options = job["options"]
    token_ids, targets = splits["train"]
    steps_per_epoch = math.ceil(len(token_ids) / options["batch_size"])
    optimizer, schedule = prepare(model, options, steps_per_epoch * options["epochs"])
    chance = np.random.default_rng(options["seed"])
    best, best_weights, history = math.inf, None, []
    for epoch in range(options["epochs"]):
        model.train()
        for chosen in grouped_by_length([len(ids) for ids in token_ids], options["batch_size"], chance):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=job["bfloat16"]):
                logits = model(**padded([token_ids[i] for i in chosen])).logits
            loss = functional.cross_entropy(logits.float(), torch.tensor(targets[chosen]))
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        validation = measure(model, *splits["validation"])
        history.append(validation)
        print(f"peer: epoch {epoch + 1}: {validation}", flush=True)
        if validation["loss"] < best:
            best, best_weights = validation["loss"], copy.deepcopy(model.state_dict())
    if best_weights is not None:
        model.load_state_dict(best_weights)
    return history


def prepare(model: Any, options: dict[str, Any], steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW with linear warm-up and cosine decay; biases and layer norms are not decayed."""
    decayed = [parameter for name, parameter in model.named_parameters() if not name.endswith("bias") and "LayerNorm" not in name]
    others = [parameter for name, parameter in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    groups = [{"params": decayed, "weight_decay": options["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options["learning_rate"])
    return optimizer, transformers.get_cosine_schedule_with_warmup(optimizer, int(options["warmup"] * steps), steps)


def grouped_by_length(lengths: list[int], batch_size: int, chance: np.random.Generator) -> list[np.ndarray]:
    """Shuffles, sorts pools of batches by length, and shuffles the batches."""
    order, pool = chance.permutation(len(lengths)), batch_size * POOL_BATCHES
    plan = []
    for start in range(0, len(order), pool):
        part = np.array(sorted(order[start : start + pool], key=lambda i: lengths[i]))
        plan += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [plan[i] for i in chance.permutation(len(plan))]


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Pads to the longest row."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


@torch.no_grad()
def measure(model: Any, token_ids: list[list[int]], targets: np.ndarray) -> dict[str, float]:
    """Returns accuracy and mean cross entropy in float32, as ours is measured."""
    model.eval()
    order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
    correct, loss = 0, 0.0
    for start in range(0, len(order), EVALUATION_BATCH):
        chosen = order[start : start + EVALUATION_BATCH]
        logits, wanted = model(**padded([token_ids[i] for i in chosen])).logits, torch.tensor(targets[chosen])
        correct += int((logits.argmax(-1) == wanted).sum())
        loss += float(functional.cross_entropy(logits, wanted, reduction="sum"))
    return {"accuracy": correct / len(order), "loss": loss / len(order)}


if __name__ == "__main__":
    main()
