"""A ViT of PyTorch + transformers, for `benchmarks/vision.py` to take turns with.

    python benchmarks/peers/transformers_vit.py CONFIG.json

It runs in an environment of its own, with torch and transformers and without KerasBig. It reads one JSON object a line
from standard input and answers with one: {"batch": 32, "steps": 5} trains so many steps.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
import transformers


def main() -> None:
    """Answers until the input ends."""
    with open(sys.argv[1], encoding="utf-8") as file:
        config = json.load(file)
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**config))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.05)
    print(
        json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads()}), flush=True
    )
    random, side = np.random.default_rng(0), config["image_size"]
    model.train()
    for line in sys.stdin:
        job = json.loads(line)
        pixels = torch.from_numpy(random.normal(size=(job["batch"], 3, side, side)).astype("float32"))
        labels = torch.from_numpy(random.integers(0, config["num_labels"], job["batch"]))
        started = time.perf_counter()
        for _ in range(job["steps"]):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(pixels, labels=labels).loss
            loss.backward()
            optimizer.step()
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
