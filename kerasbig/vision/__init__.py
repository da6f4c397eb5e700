"""Builders of image models."""

from kerasbig.vision.coco_metrics import CocoFigures, CocoMetrics, coco_figures, evaluate_detector, measure_detector
from kerasbig.vision.detection import Detections, detect, detection_answers
from kerasbig.vision.detector import compile_object_detector, photo_shape, vit_detector
from kerasbig.vision.errors import Verdict, judge, worst
from kerasbig.vision.fcos import FcosLoss
from kerasbig.vision.vit import VIT_SIZES, compile_image_classifier, fitting_shape, vit_classifier

__all__ = [
    "VIT_SIZES",
    "CocoFigures",
    "CocoMetrics",
    "Detections",
    "FcosLoss",
    "Verdict",
    "coco_figures",
    "compile_image_classifier",
    "compile_object_detector",
    "detect",
    "detection_answers",
    "evaluate_detector",
    "fitting_shape",
    "judge",
    "measure_detector",
    "photo_shape",
    "vit_classifier",
    "vit_detector",
    "worst",
]
