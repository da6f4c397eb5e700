"""Builders of text models, and the learning of their vocabularies."""

from kerasbig.text.bert import SIZES, bert_classifier, compile_classifier
from kerasbig.text.byte_pairs import BytePair, learn_bpe
from kerasbig.text.generation import generate, stream
from kerasbig.text.gpt import GPT_SIZES, compile_generator, gpt_generator
from kerasbig.text.vocabulary import learn_wordpiece

__all__ = [
    "GPT_SIZES",
    "SIZES",
    "BytePair",
    "bert_classifier",
    "compile_classifier",
    "compile_generator",
    "generate",
    "gpt_generator",
    "learn_bpe",
    "learn_wordpiece",
    "stream",
]
