"""Writes the golden files of test_vit.py: a tiny ViT of Hugging Face with random weights, and what it answers.

The tests need neither PyTorch nor transformers: this script ran once, in an environment of its own. To write the files
again (made with torch 2.14.1 and transformers 5.24.0, on a CPU):

    python -m venv peer && peer/bin/pip install torch transformers
    peer/bin/python tests/golden/make_vit.py

`vit/` is a folder as people have it on their disk: config.json, model.safetensors, preprocessor_config.json. `vit.npz`
holds, for B images of H x W pixels:

    images       uint8 (B, H, W, 3)   random images of the model's own size
    logits       float32 (B, 3)       what the model computes for them
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
SIZE, LABELS = 24, ("cat", "dog", "cow")
# Not the plain ViT's, so that a mean or an epsilon that is not read shows.
MEAN, STD, EPSILON = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1e-3


def build_model() -> transformers.ViTForImageClassification:
    """Makes a model in which no weight, bias or norm is at its start, so that a wrong one shows."""
    config = transformers.ViTConfig(
        image_size=SIZE, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        layer_norm_eps=EPSILON, id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)},
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "layernorm" in name and name.endswith("weight") else 0.0, 0.2)
    return model


def main() -> None:
    folder = HERE / "vit"
    folder.mkdir(exist_ok=True)
    model = build_model()
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    processor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": SIZE, "width": SIZE}, "resample": 2,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3)).astype("uint8")
    # As transformers' image processor does it; that one needs torchvision.
    pixels = (torch.tensor(images, dtype=torch.float32) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        logits = model(pixels.permute(0, 3, 1, 2)).logits.numpy()
    np.savez_compressed(HERE / "vit.npz", images=images, logits=logits)
    print(logits, {file.name: file.stat().st_size for file in sorted(folder.iterdir())})


if __name__ == "__main__":
    main()
