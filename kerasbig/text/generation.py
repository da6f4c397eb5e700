"""Letting a generator write: whole texts, or piece by piece."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import keras_hub

from kerasbig.data.token_text import text_of, token_bytes
from kerasbig.decoding.engine import decoder_of
from kerasbig.decoding.settings import Settings, prompt_room

_log = logging.getLogger("kerasbig.text")
# Rows that run at once, of like length. Their keys and values are in memory together.
_MOST_ROWS = 32
# Slots between two looks for stop strings, and between two pieces: each call copies keys and values once.
_LOOK_AFTER, _PIECE = 16, 4


def generate(
    model: keras_hub.models.CausalLM,
    prompts: Sequence[str],
    *,
    max_tokens: int = 64,
    method: str = "greedy",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    num_beams: int = 4,
    penalty_alpha: float = 0.6,
    repetition_penalty: float = 1.0,
    stop: str | Sequence[str] = (),
    seed: int | Sequence[int] = 0,
    compiled: bool = True,
) -> list[str]:
    """Writes on from each prompt.

    A prompt gives what it gives alone, whatever stands beside it, but for rounding. A prompt that does not fit in the
    context beside `max_tokens`, or beside half the context if that is less, is cut from its left, with a warning in the log.

    Args:
        model: Any KerasHub CausalLM of text, such as from `gpt_generator`.
        prompts: Texts to go on from; an empty one begins a document.
        max_tokens: Most tokens to write; fewer if the model ends the text or its context is full.
        method: "greedy" takes the likeliest token each time; "sample" draws one; "beam" looks for the likeliest text;
            "contrastive" takes a token that is likely and unlike the text so far.
        temperature: Of "sample": below 1 for likelier tokens, above 1 for rarer ones.
        top_k: Of "sample": draws from this many likeliest tokens, 0 for all. Of "contrastive": the candidates, 4 if 0.
        top_p: Of "sample": draws from the fewest likeliest tokens that have this probability together.
        num_beams: Of "beam": texts that are followed at once. The best is the one of largest log-likelihood, whatever
            its length.
        penalty_alpha: Of "contrastive": the weight of being unlike, 0 to 1.
        repetition_penalty: Above 1, tokens that stand in prompt or text get less likely, in every method.
        stop: Strings that end a text; they are not part of it.
        seed: Of "sample": what chance depends on, beside the prompt and the model. One number, or one for each prompt.
        compiled: Whether XLA compiles the loop: seconds for each new size of batch, prompt and answer, then the fastest.
            Without it a graph runs as it is.

    Returns:
        What comes after each prompt, as whole characters.

    Raises:
        TypeError: If `model` is no CausalLM of text with its preprocessor.
        ValueError: If a setting is out of range or a text is not valid Unicode.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> texts = generate(model, ["a", "a film"], max_tokens=4, method="sample", seed=3, compiled=False)
        >>> len(texts), generate(model, ["a film"], max_tokens=4, method="sample", seed=3, compiled=False) == texts[1:]
        (2, True)

    Source: Holtzman et al., 2020, arXiv:1904.09751 (top-p); Fan et al., 2018, arXiv:1805.04833 (top-k); Su et al., 2022,
    arXiv:2202.06417 (contrastive); Keskar et al., 2019, arXiv:1909.05858 (repetition penalty).
    """
    settings = Settings(max_tokens, method, temperature, top_k, top_p, num_beams, penalty_alpha, repetition_penalty)
    texts, stops = _checked_prompts(prompts), _checked_stops(stop)
    seeds = _checked_seeds(seed, len(texts))
    rows = _prompt_tokens(model, texts, max_tokens)
    table = token_bytes(model.preprocessor.tokenizer)
    written = [""] * len(texts)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), _MOST_ROWS):
        group = order[start : start + _MOST_ROWS]
        session = decoder_of(model, xla=compiled).start([rows[i] for i in group], settings, [seeds[i] for i in group])
        while not session.finished:
            for place, tokens in enumerate(session.advance(_LOOK_AFTER if stops else None)):
                i = group[place]
                text = text_of(model.preprocessor.tokenizer, table, rows[i][-1], tokens)
                written[i], found = _cut(text, stops)
                if found:
                    session.stop(place)
    return written


def stream(
    model: keras_hub.models.CausalLM,
    prompt: str,
    *,
    max_tokens: int = 64,
    method: str = "greedy",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    num_beams: int = 4,
    penalty_alpha: float = 0.6,
    repetition_penalty: float = 1.0,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    compiled: bool = True,
) -> Iterator[str]:
    """Writes on from a prompt and yields the text as it comes: joined, the pieces are what `generate` returns.

    Args:
        model: As in `generate`.
        prompt: The text to go on from.
        max_tokens: As in `generate`, like all that follow.
        method: Beam search knows its text at the end only: one piece.
        temperature: Of "sample".
        top_k: Of "sample" and "contrastive".
        top_p: Of "sample".
        num_beams: Of "beam".
        penalty_alpha: Of "contrastive".
        repetition_penalty: Of every method.
        stop: Strings that end the text.
        seed: Of "sample".
        compiled: Whether XLA compiles the loop.

    Yields:
        Pieces of whole characters, none of them empty.

    Raises:
        TypeError: As `generate`; when the first piece is asked for.
        ValueError: As `generate`; when the first piece is asked for.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> pieces = list(stream(model, "a film", max_tokens=6, compiled=False))
        >>> ["".join(pieces)] == generate(model, ["a film"], max_tokens=6, compiled=False)
        True
    """
    settings = Settings(max_tokens, method, temperature, top_k, top_p, num_beams, penalty_alpha, repetition_penalty)
    stops = _checked_stops(stop)
    rows = _prompt_tokens(model, _checked_prompts([prompt]), max_tokens)
    table = token_bytes(model.preprocessor.tokenizer)
    session = decoder_of(model, xla=compiled).start(rows, settings, _checked_seeds(seed, 1))
    shown, count = "", None if method == "beam" else 1
    while not session.finished:
        (tokens,) = session.advance(count)
        text, found = _cut(text_of(model.preprocessor.tokenizer, table, rows[0][-1], tokens), stops)
        if found:
            session.stop(0)
        # What may become a stop string waits.
        ready = text if session.finished else text[: len(text) - _begun(text, stops)]
        if len(ready) > len(shown):
            yield ready[len(shown) :]
            shown = ready
        count = _PIECE


def _prompt_tokens(model: keras_hub.models.CausalLM, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Returns each prompt's tokens, with the token that begins a document where a family or an empty prompt needs it."""
    longest = decoder_of(model).longest
    room = prompt_room(longest, max_tokens)
    if not texts:
        return []
    tokenizer = model.preprocessor.tokenizer
    found = tokenizer.tokenize(list(texts))
    end = int(tokenizer.end_token_id)
    start = int(getattr(tokenizer, "start_token_id", None) or end)
    # One token for both ends is a border between documents, but for OPT, which was trained with it before each text.
    begins = start != end or isinstance(tokenizer, keras_hub.tokenizers.OPTTokenizer)
    rows = []
    for i, row in enumerate(found.to_list() if hasattr(found, "to_list") else found):
        ids = [int(token) for token in row]
        ids = [start, *ids] if begins or not ids else ids
        if len(ids) > room:
            words = "Prompt %d has %d tokens, and %d fit in the context of %d beside those to write: it is cut from its left."
            _log.warning(words, i + 1, len(ids), room, longest)
        rows.append(ids[-room:])
    return rows


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Returns the text before the first stop string, and whether there is one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _begun(text: str, stops: Sequence[str]) -> int:
    """Returns how many characters at the end may be the beginning of a stop string."""
    return max((count for stop in stops for count in range(1, len(stop)) if text.endswith(stop[:count])), default=0)


def _checked_prompts(prompts: Sequence[str]) -> list[str]:
    if isinstance(prompts, str):
        raise ValueError(f"Expected prompts to be a list of texts. Received one text: put it in a list, [{prompts[:20]!r}].")
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(f"Expected prompts to be texts. Received: prompts[{i}] is {type(prompt).__name__}.")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"Expected prompts to be valid Unicode. Received: a lone surrogate in prompts[{i}] at character {error.start}."
            ) from error
    return list(prompts)


def _checked_stops(stop: str | Sequence[str]) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(each, str) and each for each in stops):
        raise ValueError(f"Expected stop to be strings with at least one character. Received: stop={stop!r}")
    return stops


def _checked_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    seeds = [seed] * count if isinstance(seed, int) else list(seed)
    if len(seeds) != count or not all(isinstance(each, int) and -(2**63) <= each < 2**63 for each in seeds):
        raise ValueError(f"Expected seed to be a whole number of 64 bits, or one for each of {count} prompts. Received: seed={seed!r}")
    return seeds
