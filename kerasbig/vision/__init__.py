"""Builders of image models."""

from kerasbig.vision.coco_metrics import CocoFigures, CocoMetrics, coco_figures, evaluate_detector, measure_detector
from kerasbig.vision.detection import Detections, detect, detection_answers
from kerasbig.vision.detector import compile_object_detector, photo_shape, vit_detector
from kerasbig.vision.errors import Verdict, judge, worst
from kerasbig.vision.face import compile_face_classifier, face_classifier
from kerasbig.vision.face_finding import FoundFace, align_face, find_faces
from kerasbig.vision.face_folders import CutFaces, cut_faces
from kerasbig.vision.fcos import FcosLoss
from kerasbig.vision.gallery import Comparison, Gallery, Match, embed, verify
from kerasbig.vision.margins import ArcFaceLoss, CosFaceLoss
from kerasbig.vision.people import answer_faces, complete_faces, measure_faces
from kerasbig.vision.verification import Pairs, choose_threshold, measure_verification, roc
from kerasbig.vision.vit import VIT_SIZES, compile_image_classifier, fitting_shape, vit_classifier

__all__ = [
    "VIT_SIZES",
    "ArcFaceLoss",
    "CocoFigures",
    "CocoMetrics",
    "Comparison",
    "CosFaceLoss",
    "CutFaces",
    "Detections",
    "FcosLoss",
    "FoundFace",
    "Gallery",
    "Match",
    "Pairs",
    "Verdict",
    "align_face",
    "answer_faces",
    "choose_threshold",
    "coco_figures",
    "compile_face_classifier",
    "compile_image_classifier",
    "compile_object_detector",
    "complete_faces",
    "cut_faces",
    "detect",
    "detection_answers",
    "embed",
    "evaluate_detector",
    "face_classifier",
    "find_faces",
    "fitting_shape",
    "judge",
    "measure_detector",
    "measure_faces",
    "measure_verification",
    "photo_shape",
    "roc",
    "verify",
    "vit_classifier",
    "vit_detector",
    "worst",
]
