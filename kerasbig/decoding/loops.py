"""The loops in the graph: from a filled cache to tokens, a limited number of slots at a time.

The state between two calls is a dict: `tokens` int32 (B, S), `slot` int32 () the next to write, `done` bool (B,), `cache`,
and what a method adds. Rows that are done are written on with the end token, which the reader cuts off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kerasbig.decoding.choosing import choose, is_any, penalized
from kerasbig.decoding.forward import Forward

State = dict[str, Any]
Options = dict[str, tf.Tensor]


def begin(forward: Forward, prompts: tf.Tensor, pad: tf.Tensor, ends: tf.Tensor, done: tf.Tensor, room: tf.Tensor) -> State:
    """Reads the prompts.

    Args:
        forward: The model in this graph.
        prompts: int32 (B, P); a row's tokens stand from its `pad` to before its `end`.
        pad: int32 (B,), the slot of the first token.
        ends: int32 (B,), the slot after the last.
        done: bool (B,), rows that are not wanted.
        room: int32 (R,) of any values, a slot for each token to come: XLA knows sizes of inputs only.

    Returns:
        The state, with `hidden` (B, S, D) for contrastive search.
    """
    slots = tf.shape(prompts)[1] + tf.shape(room)[0]
    hidden, cache = forward.fill(prompts, pad, slots)
    rest = [[0, 0], [0, tf.shape(room)[0]]]
    return {
        "tokens": tf.pad(prompts, rest),
        "slot": tf.reduce_min(ends),
        "done": done,
        "cache": cache,
        "hidden": tf.pad(_unit(hidden), [*rest, [0, 0]]),
    }


def write(
    forward: Forward, state: State, pad: tf.Tensor, ends: tf.Tensor, options: Options, stops: Sequence[int], limit: tf.Tensor
) -> State:
    """Writes up to `limit` slots, greedily or by draws.

    Beside those of `choose`, `options` are `draws` float32 (B, R), `penalty` float32 () and `max_tokens` int32 (B,).
    """

    def body(left: tf.Tensor, slot: tf.Tensor, tokens: tf.Tensor, done: tf.Tensor, cache: Any) -> tuple[Any, ...]:
        logits, _, cache = forward.step(tokens, slot - 1, pad, cache)
        logits = penalized(logits, tokens, _written(tokens, slot, pad), options["penalty"], stops)
        # Rows that have ended while longer ones are written have no draws left; what they would draw is not put.
        place = tf.clip_by_value(slot - ends, 0, tf.shape(options["draws"])[1] - 1)
        draws = tf.gather(options["draws"], place, axis=1, batch_dims=1)
        tokens, done = _put(tokens, done, slot, choose(logits, draws, options), ends, options, stops)
        return left - 1, slot + 1, tokens, done, cache

    start = (limit, state["slot"], state["tokens"], state["done"], state["cache"])
    _, slot, tokens, done, cache = tf.while_loop(_unfinished, body, start)
    return {"tokens": tokens, "slot": slot, "done": done, "cache": cache}


def begin_beams(state: State, count: int) -> State:
    """Makes a row of the state into `count` beams, of which only the first counts at the start."""
    scores = tf.concat([[0.0], tf.fill([count - 1], -tf.float32.max)], axis=0)
    rows = tf.shape(state["tokens"])[0]
    spread = {name: _repeat(state[name], count) for name in ("tokens", "done", "cache")}
    return {**spread, "slot": state["slot"], "scores": tf.tile(scores[None], [rows, 1])}


def write_beams(
    forward: Forward, state: State, pad: tf.Tensor, ends: tf.Tensor, options: Options, stops: Sequence[int], limit: tf.Tensor
) -> State:
    """Writes up to `limit` slots of (B * K) beams and keeps the K texts of largest log-likelihood a row, the best first.

    A beam that ended keeps its score. No score is divided by a length.
    """
    count = state["scores"].shape[1]
    pad, ends, options = _repeat(pad, count), _repeat(ends, count), {**options, "max_tokens": _repeat(options["max_tokens"], count)}

    def body(left: tf.Tensor, slot: tf.Tensor, tokens: tf.Tensor, done: tf.Tensor, cache: Any, scores: tf.Tensor) -> tuple[Any, ...]:
        logits, _, cache = forward.step(tokens, slot - 1, pad, cache)
        gains = tf.nn.log_softmax(penalized(logits, tokens, _written(tokens, slot, pad), options["penalty"], stops))  # (B * K, V)
        size = tf.shape(gains)[1]
        forced = slot < ends
        # A prompt's token, or the end of a text that has ended, is certain.
        certain = tf.where(forced, tf.gather(tokens, slot, axis=1), stops[0])
        only = tf.where(tf.range(size) == certain[:, None], 0.0, -tf.float32.max)
        gains = tf.where((forced | done)[:, None], only, gains)
        # The sum of two least floats would be infinite.
        totals = tf.maximum(tf.reshape(scores, [-1, 1]), -1e30) + tf.maximum(gains, -1e30)
        scores, places = tf.math.top_k(tf.reshape(totals, [-1, count * size]), count)
        parents = tf.reshape(places // size + tf.range(tf.shape(places)[0])[:, None] * count, [-1])
        tokens, done, cache = tf.nest.map_structure(lambda part: tf.gather(part, parents), (tokens, done, cache))
        tokens, done = _put(tokens, done, slot, tf.reshape(places % size, [-1]), ends, options, stops)
        return left - 1, slot + 1, tokens, done, cache, scores

    def unfinished(left: tf.Tensor, slot: tf.Tensor, tokens: tf.Tensor, done: tf.Tensor, *_: Any) -> tf.Tensor:
        # Scores only fall: nothing overtakes a best beam that has ended.
        return (left > 0) & ~tf.reduce_all(tf.reshape(done, [-1, count])[:, 0])

    start = (limit, state["slot"], state["tokens"], state["done"], state["cache"], state["scores"])
    _, slot, tokens, done, cache, scores = tf.while_loop(unfinished, body, start)
    return {"tokens": tokens, "slot": slot, "done": done, "cache": cache, "scores": scores}


def begin_contrast(forward: Forward, state: State, pad: tf.Tensor) -> State:
    """Adds the logits of the slot to write."""
    logits, hidden, cache = forward.step(state["tokens"], state["slot"] - 1, pad, state["cache"])
    return {**state, "cache": cache, "logits": logits, "hidden": _put_hidden(state["hidden"], _unit(hidden), state["slot"] - 1)}


def write_contrast(
    forward: Forward,
    state: State,
    pad: tf.Tensor,
    ends: tf.Tensor,
    options: Options,
    stops: Sequence[int],
    limit: tf.Tensor,
    count: int,
) -> State:
    """Writes up to `limit` slots: of the `count` likeliest tokens the one that is likely and unlike the text so far.

    Source: Su et al., 2022, "A contrastive framework for neural text generation", arXiv:2202.06417, equation 5.
    """

    def body(left: tf.Tensor, slot: tf.Tensor, tokens: tf.Tensor, done: tf.Tensor, cache: Any, hidden: Any, logits: Any) -> tuple[Any, ...]:
        written = _written(tokens, slot, pad)
        chances, candidates = tf.math.top_k(tf.nn.softmax(penalized(logits, tokens, written, options["penalty"], stops)), count)
        candidates = tf.where((slot < ends)[:, None], tf.gather(tokens, slot, axis=1)[:, None], candidates)  # (B, C)
        tried = _write_column(_repeat(tokens, count), slot, tf.reshape(candidates, [-1]))
        next_logits, next_hidden, next_cache = forward.step(tried, slot, _repeat(pad, count), _repeat(cache, count))
        unit = tf.reshape(_unit(next_hidden), [-1, count, next_hidden.shape[-1]])  # (B, C, D)
        likeness = tf.where(written[:, None], tf.matmul(unit, hidden, transpose_b=True), -1.0)  # (B, C, S)
        alpha = options["alpha"]
        best = tf.argmax((1.0 - alpha) * chances - alpha * tf.reduce_max(likeness, axis=-1), axis=-1, output_type=tf.int32)
        rows = tf.range(tf.shape(best)[0]) * count + best
        logits, cache = tf.nest.map_structure(lambda part: tf.gather(part, rows), (next_logits, next_cache))
        hidden = _put_hidden(hidden, tf.gather(unit, best, batch_dims=1), slot)
        tokens, done = _put(tokens, done, slot, tf.gather(candidates, best, batch_dims=1), ends, options, stops)
        return left - 1, slot + 1, tokens, done, cache, hidden, logits

    start = (limit, state["slot"], state["tokens"], state["done"], state["cache"], state["hidden"], state["logits"])
    _, slot, tokens, done, cache, hidden, logits = tf.while_loop(_unfinished, body, start)
    return {"tokens": tokens, "slot": slot, "done": done, "cache": cache, "hidden": hidden, "logits": logits}


def _unfinished(left: tf.Tensor, slot: tf.Tensor, tokens: tf.Tensor, done: tf.Tensor, *_: Any) -> tf.Tensor:
    return (left > 0) & ~tf.reduce_all(done)


def _put(
    tokens: tf.Tensor, done: tf.Tensor, slot: tf.Tensor, chosen: tf.Tensor, ends: tf.Tensor, options: Options, stops: Sequence[int]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Writes a slot: the prompt's own token within a prompt, the end token after an end, and else what was chosen."""
    forced = slot < ends
    new = tf.where(forced, tf.gather(tokens, slot, axis=1), tf.where(done, stops[0], chosen))
    done |= ~forced & (is_any(new, stops) | (slot + 1 >= ends + options["max_tokens"]))
    return _write_column(tokens, slot, new), done


def _write_column(tokens: tf.Tensor, slot: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.range(tf.shape(tokens)[1]) == slot, new[:, None], tokens)


def _put_hidden(hidden: tf.Tensor, new: tf.Tensor, slot: tf.Tensor) -> tf.Tensor:
    return tf.where((tf.range(tf.shape(hidden)[1]) == slot)[:, None], new[:, None], hidden)


def _written(tokens: tf.Tensor, slot: tf.Tensor, pad: tf.Tensor) -> tf.Tensor:
    """Returns bool (B, S), the slots that hold text."""
    slots = tf.range(tf.shape(tokens)[1])
    return (slots < slot) & (slots >= pad[:, None])


def _unit(hidden: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(tf.cast(hidden, tf.float32), axis=-1)


def _repeat(parts: Any, count: int) -> Any:
    return tf.nest.map_structure(lambda part: tf.repeat(part, count, axis=0), parts)
