"""Where a model trains, at which precision, and how a killed training goes on."""

from kerasbig.distribute.adamw import AdamW
from kerasbig.distribute.precision import Precision, fastest_precision
from kerasbig.distribute.resume import Resume
from kerasbig.distribute.strategy import strategy

__all__ = ["AdamW", "Precision", "Resume", "fastest_precision", "strategy"]
