"""Token ids of raw texts by a `tokenizer.json`, without the steps that change nothing in ASCII."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

# A class of characters as `tokenizer_json.py` writes it, and the codes in it.
_CLASS, _CODE = re.compile(r"\[(?:\\x\{[0-9A-F]+\}-\\x\{[0-9A-F]+\})+\]"), re.compile(r"\{([0-9A-F]+)\}")


class TextEncoder:
    r"""Turns texts into the token ids of a `tokenizer.json`, equal to those of `tokenizers.Tokenizer`.

    KerasHub's folding of case is some eighty replacements of rare characters, each a pass over the text. Texts of ASCII alone
    skip those that no ASCII character can start.

    Args:
        description: The contents of a `tokenizer.json` that was exported with a BERT.

    Attributes:
        longest: The most token ids that a text becomes; None if texts are not cut.

    Example:
        >>> from tokenizers import Regex, Tokenizer, models, normalizers
        >>> tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, "?"))
        >>> tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"[\x{C4}-\x{C4}]"), "a")])
        >>> TextEncoder(tokenizer.to_str())(["a", "Ä", "b"])
        [[0], [0], [1]]
    """

    def __init__(self, description: str) -> None:
        from tokenizers import Tokenizer

        self._whole = Tokenizer.from_str(description)
        self._ascii = _for_ascii(self._whole)
        truncation = self._whole.truncation
        self.longest: int | None = int(truncation["max_length"]) if truncation else None

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text."""
        tokenizer = self._ascii if all(map(str.isascii, texts)) else self._whole
        # A batch is spread over threads, which one text does not pay.
        encodings = tokenizer.encode_batch(list(texts)) if len(texts) > 1 else [tokenizer.encode(text) for text in texts]
        return [encoding.ids for encoding in encodings]


def _for_ascii(whole: Any) -> Any:
    """Returns a tokenizer with the same vocabulary in memory, fewer normalizers, and equal ids for ASCII."""
    from tokenizers import Tokenizer, normalizers

    if not isinstance(whole.normalizer, normalizers.Sequence) or whole.get_added_tokens_decoder():
        return whole
    steps = json.loads(whole.normalizer.__getstate__())["normalizers"]
    kept = normalizers.Sequence([])
    kept.__setstate__(json.dumps({"type": "Sequence", "normalizers": [step for step in steps if _may_change_ascii(step)]}).encode())
    result = Tokenizer(whole.model)
    result.normalizer, result.pre_tokenizer, result.post_processor = kept, whole.pre_tokenizer, whole.post_processor
    if whole.truncation:
        result.enable_truncation(**whole.truncation)
    return result


def _may_change_ascii(step: dict[str, Any]) -> bool:
    pattern = step.get("pattern", {}).get("Regex", "")
    return not _CLASS.fullmatch(pattern) or any(int(code, 16) < 0x80 for code in _CODE.findall(pattern))
