"""Builders of text models, and the learning of their vocabularies."""

from kerasbig.text.bert import SIZES, bert_classifier, compile_classifier
from kerasbig.text.vocabulary import learn_wordpiece

__all__ = ["SIZES", "bert_classifier", "compile_classifier", "learn_wordpiece"]
