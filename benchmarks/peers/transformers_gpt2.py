"""A GPT-2 of PyTorch + transformers, for `benchmarks/generation.py` to take turns with.

    python benchmarks/peers/transformers_gpt2.py CONFIG.json

It runs in an environment of its own, with torch and transformers and without KerasBig. It reads one JSON object a line
from standard input and answers with one: {"do": "generate", "batch": 1, "prompt": 16, "tokens": 64},
{"do": "train", "batch": 8, "length": 256, "steps": 5} or {"do": "learn", "file": "windows.npz", "rate": 6e-4}.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional


def main() -> None:
    """Answers until the input ends."""
    with open(sys.argv[1], encoding="utf-8") as file:
        config = json.load(file)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config, bos_token_id=None, eos_token_id=None))
    answers = {"generate": generate, "train": train, "learn": learn}
    print(
        json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads()}), flush=True
    )
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(answers[job.pop("do")](model, **job)), flush=True)


def generate(model: Any, batch: int, prompt: int, tokens: int) -> dict[str, float]:
    """Writes greedily, twice, and returns the seconds of the second time."""
    model.eval()
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, model.config.vocab_size - 1, (batch, prompt)))
    for _ in range(2):
        started = time.perf_counter()
        with torch.inference_mode():
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0
            )
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": int(written[:, prompt:].numel())}


def train(model: Any, batch: int, length: int, steps: int) -> dict[str, float]:
    """Trains under bfloat16 autocast and returns the seconds of all steps but the first."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, model.config.vocab_size - 1, (batch, length)))
    model.train()
    for step in range(steps + 1):
        if step == 1:
            started = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
    return {"seconds": time.perf_counter() - started}


def learn(model: Any, file: str, rate: float) -> dict[str, float]:
    """Learns from windows in their order, in float32, and returns the nats of the test windows."""
    data = np.load(file)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(model.config)
    decayed = [weight for name, weight in model.named_parameters() if "ln" not in name and "bias" not in name]
    others = [weight for name, weight in model.named_parameters() if "ln" in name or "bias" in name]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], rate, weight_decay=0.01, eps=1e-7)
    model.train()
    for ids, targets in zip(torch.from_numpy(data["train_ids"]), torch.from_numpy(data["train_targets"]), strict=True):
        optimizer.zero_grad()
        logits = model(ids.long()).logits
        functional.cross_entropy(logits.flatten(0, 1), targets.long().flatten()).backward()
        optimizer.step()
    model.eval()
    nats = 0.0
    with torch.inference_mode():
        for ids, targets in zip(torch.from_numpy(data["test_ids"]), torch.from_numpy(data["test_targets"]), strict=True):
            nats += float(functional.cross_entropy(model(ids.long()).logits.flatten(0, 1), targets.long().flatten(), reduction="sum"))
    return {"nats": nats}


if __name__ == "__main__":
    main()
