"""What KerasHub leaves out of its byte-pair tokenizers: cutting texts into words, as each family was trained on."""

from __future__ import annotations

import functools
import logging
from typing import Any

import keras_hub
import tokenizers

from kerasbig.data.graph_tokens import graph_token_ids
from kerasbig.data.token_text import byte_letters

logger = logging.getLogger(__name__)

# Llama 3, https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py; Qwen takes numbers digit by digit.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace("{1,3}", "")
# The families of KerasHub whose releases cut texts as GPT-2 does. (GPT-NeoX composes accents first, which is left out.)
GPT2_FAMILY = ("GPT2Tokenizer", "OPTTokenizer", "GPTNeoXTokenizer")
PATTERNS = {
    **dict.fromkeys(("Llama3Tokenizer", "SmolLM3Tokenizer"), LLAMA3),
    **dict.fromkeys(("QwenTokenizer", "QwenMoeTokenizer", "Qwen3Tokenizer", "Qwen3MoeTokenizer"), QWEN),
}


def mend_splitting(tokenizer: Any) -> None:
    """Makes a byte-pair tokenizer of KerasHub cut texts into words as its family does; leaves others as they are.

    KerasHub 0.32 hands its pattern over as plain text, so that outside a graph nothing is cut and pairs are joined
    across words. In a graph it cuts, but not quite as GPT-2, whose tokens come from `graph_token_ids` here. It makes
    its splitter anew when it reads its files, so this is done after each reading.

    Args:
        tokenizer: Any KerasHub tokenizer, or None.

    Example:
        >>> import kerasbig as kb
        >>> pairs = kb.text.learn_bpe(["in 2019 and 2019"], 270)
        >>> tokenizer = keras_hub.tokenizers.GPT2Tokenizer(pairs.vocabulary, pairs.merges)
        >>> mend_splitting(tokenizer)
        >>> tokenizer._tokenizer.pre_tokenizer.pre_tokenize_str("in 2019")
        [('in', (0, 2)), ('Ġ2019', (2, 7))]
    """
    if not isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer) or tokenizer.vocabulary is None:
        return
    family = next((kind.__name__ for kind in type(tokenizer).__mro__ if kind.__name__ in {*GPT2_FAMILY, *PATTERNS}), None)
    tokenizer._maybe_initialized_tokenizers()
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=tokenizer.add_prefix_space, use_regex=family in GPT2_FAMILY)
    if family in GPT2_FAMILY:
        tokenizer._tokenizer.pre_tokenizer = byte_level
        if byte_letters().keys() <= tokenizer.vocabulary.keys():
            tokenizer._tokenize_tf = functools.partial(graph_token_ids, tokenizer)
    elif family is not None:
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS[family]), "isolated")
        tokenizer._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
        if PATTERNS[family] == QWEN:
            tokenizer._tokenizer.normalizer = tokenizers.normalizers.NFC()
    elif not _cuts_words(tokenizer):
        logger.warning(
            "%s: keras-hub cuts no words for this family outside of graphs, so its token ids are not those it was trained on.",
            type(tokenizer).__name__,
        )


def _cuts_words(tokenizer: Any) -> bool:
    splitter = tokenizer._tokenizer.pre_tokenizer
    return splitter is not None and len(splitter.pre_tokenize_str("two words")) > 1
