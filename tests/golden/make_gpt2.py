"""Writes the golden files of test_gpt.py: a tiny GPT-2 of Hugging Face with random weights, and what it answers.

The tests need neither PyTorch nor transformers: this script ran once, in an environment of its own. To write the files
again (made with torch 2.14.1 and transformers 5.24.0, on a CPU):

    python -m venv peer && peer/bin/pip install torch transformers
    peer/bin/python tests/golden/make_gpt2.py

`gpt2/` is a folder as people have it on their disk: config.json, model.safetensors, vocab.json, merges.txt,
tokenizer_config.json. `gpt2.npz` holds, for B sequences of T tokens, V tokens in the vocabulary and N texts:

    token_ids    int32 (B, T)      random inputs
    logits       float32 (B, T, V) what the model computes for them
    texts        str (N,)          texts whose splitting into words is easily got wrong
    text_ids     int32 (N, L)      their token ids, filled up with -1
    prompts      str (P,)          beginnings of a text
    greedy_ids   int32 (P, 24)     the tokens of largest logit that follow each
    greedy_texts str (P,)          the same as text
    margin       float32 ()        the smallest lead of a greedy token over the next best
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

HERE = Path(__file__).parent
VOCABULARY_SIZE, POSITIONS, NEW_TOKENS = 384, 48, 24
# Of 60 seeds, the one whose greedy tokens lead most clearly, so that rounding cannot turn one.
SEED = 27
END = "<|endoftext|>"
LEARNT_FROM = """The quick brown fox didn't jump; it's the lazy dog's turn, they'd say: "We'll see." In 2019 there were 117
models, 1542 of them large. Le café était fermé à midi, Größe 42. 语言模型是无监督的多任务学习者。模型读文本。
Быстрая лиса прыгнула. हिन्दी भाषा। 👩‍👩‍👧 🎉 def f(x):\n    return x + 1\n""".splitlines()
TEXTS = (
    "They'll say it's 12345 dogs, DON'T they? 1,234.50",
    "  two  spaces   and\ttabs \t end  ",
    "a line\n\n  another\r\n\r\nthird\n",
    "café Größe 语言模型。 हिन्दी १२३६ 👩‍👩‍👧🎉",
    "no\u00a0break\u3000wide\u200bzero\x00nul",
    "x=1;y={'a':[2,3]}//!!??...",
    f"one{END}two",
    " ",
)
PROMPTS = ("The quick brown", "语言模型", "def f(x):\n", "In 2019 there were 1")


def learn_tokenizer(folder: Path) -> None:
    """Writes vocab.json and merges.txt of a byte-level vocabulary, as GPT-2's own files are."""
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    splitter = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.pre_tokenizer = splitter
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - 1, initial_alphabet=sorted(splitter.alphabet()), show_progress=False
    )
    learner.train_from_iterator(LEARNT_FROM * 2, trainer)
    ids = learner.get_vocab()
    vocabulary = {token: ids[token] for token in sorted(ids, key=ids.__getitem__)} | {END: len(ids)}
    merges = json.loads(learner.to_str())["model"]["merges"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": END, "eos_token": END, "unk_token": END, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def build_model(end: int) -> transformers.GPT2LMHeadModel:
    """Makes a model in which no weight, bias or norm is at its start, so that a wrong one shows."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY_SIZE, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4, bos_token_id=end, eos_token_id=end
    )
    torch.manual_seed(SEED)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.0, 0.2)
    return model


def greedy(model: transformers.GPT2LMHeadModel, ids: list[int], end: int) -> tuple[list[int], float]:
    """Continues with transformers' own `generate`, and measures how clear each choice was."""
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=end,
    )[0]
    with torch.no_grad():
        logits = model(out[None]).logits[0, len(ids) - 1 : -1]
    logits[:, end] = -np.inf  # min_new_tokens rules it out
    best = logits.topk(2).values
    return out[len(ids) :].tolist(), float((best[:, 0] - best[:, 1]).min())


def main() -> None:
    folder = HERE / "gpt2"
    folder.mkdir(exist_ok=True)
    learn_tokenizer(folder)
    tokenizer = transformers.GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    end = tokenizer.convert_tokens_to_ids(END)
    model = build_model(end)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    token_ids = np.random.default_rng(0).integers(0, VOCABULARY_SIZE, (2, 20)).astype("int32")
    with torch.no_grad():
        logits = model(torch.tensor(token_ids, dtype=torch.long)).logits.numpy()
    continuations, margins = zip(*(greedy(model, tokenizer(prompt)["input_ids"], end) for prompt in PROMPTS), strict=True)
    text_ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    widest = max(map(len, text_ids))
    np.savez_compressed(
        HERE / "gpt2.npz",
        token_ids=token_ids,
        logits=logits,
        texts=np.array(TEXTS),
        text_ids=np.array([ids + [-1] * (widest - len(ids)) for ids in text_ids], "int32"),
        prompts=np.array(PROMPTS),
        greedy_ids=np.array(continuations, "int32"),
        greedy_texts=np.array([tokenizer.decode(ids) for ids in continuations]),
        margin=np.float32(min(margins)),
    )
    (folder / "model.safetensors").chmod(0o644)
    print(f"smallest margin {min(margins):.4f}", {file.name: file.stat().st_size for file in sorted(folder.iterdir())})


if __name__ == "__main__":
    main()
