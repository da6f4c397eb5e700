"""From what a model gives to what is meant by it, as graph functions: no strings here.

Token ids to token ids with cached keys and values; for detectors, maps to boxes (`boxes`, `suppression`).

Shapes: B rows, S slots of the token buffer, T tokens at once, V tokens in the vocabulary, N positions of the model, D its
width, H heads. Slots are places in the buffer; GPT-2's rows end at one slot and begin at different ones, `pad`.
"""
