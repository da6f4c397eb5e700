"""From token ids back to text, of which a token may hold half a character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def byte_letters() -> dict[str, int]:
    """Returns the character that stands for each byte in a byte-level vocabulary: itself if it prints, else one from U+0100 on.

    Example:
        >>> letters = byte_letters()
        >>> len(letters), letters["a"], letters["Ġ"]
        (256, 97, 32)

    Source: Radford et al., 2019, https://github.com/openai/gpt-2/blob/master/src/encoder.py.
    """
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + place): byte for place, byte in enumerate(others)}


def token_bytes(tokenizer: Any) -> list[bytes] | None:
    """Returns the bytes of each token by its id, of a KerasHub tokenizer of GPT-2's kind; None for one of another.

    A special token stands for nothing. An id that the vocabulary leaves out does too.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> token_bytes(model.preprocessor.tokenizer)[-3:]
        [b' fi', b' film', b'']
    """
    import keras_hub

    if not isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer):
        return None
    letters, special = byte_letters(), set(tokenizer.special_tokens)
    table = [b""] * (max(tokenizer.vocabulary.values()) + 1)
    for token, place in tokenizer.vocabulary.items():
        if token not in special and letters.keys() >= set(token):
            table[place] = bytes(letters[letter] for letter in token)
    return table


def whole_characters(raw: bytes) -> str:
    r"""Decodes UTF-8 without a character at the end that is not whole yet; bytes that are no UTF-8 become U+FFFD.

    What it gives for the beginning of some bytes is a beginning of what it gives for all.

    Example:
        >>> whole_characters("电影".encode()[:5]), whole_characters(b"a\xff")
        ('电', 'a�')
    """
    return raw[: len(raw) - _begun(raw)].decode("utf-8", errors="replace")


def _begun(raw: bytes) -> int:
    """Returns how many bytes at the end are the beginning of one character."""
    for count in (1, 2, 3):
        if count > len(raw):
            break
        lead = raw[-count]
        if lead >= 0xC0:
            whole = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            # A beginning that no character has, such as E0 80, is no character to wait for.
            return count if count < whole and _may_go_on(raw[-count:]) else 0
        if lead < 0x80:
            break
    return 0


def _may_go_on(begun: bytes) -> bool:
    try:
        begun.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def text_of(tokenizer: Any, table: Sequence[bytes] | None, before: int, tokens: Sequence[int]) -> str:
    """Returns the whole characters of tokens.

    Args:
        tokenizer: The KerasHub tokenizer they are of.
        table: What `token_bytes` gives for it.
        before: The token before: other tokenizers write the first word of a text without its space.
        tokens: The tokens.

    Example:
        >>> text_of(None, [b"a", b" b"], 0, [0, 1])
        'a b'
    """
    if table is not None:
        # A model may have more tokens than its tokenizer: such stand for nothing.
        return whole_characters(b"".join(table[token] for token in tokens if token < len(table)))
    first, both = (str(tokenizer.detokenize(list(ids))) for ids in ([before], [before, *tokens]))
    # They write half a character as U+FFFD.
    return both[len(first) :].rstrip("\ufffd") if both.startswith(first) else str(tokenizer.detokenize(list(tokens))).rstrip("\ufffd")
