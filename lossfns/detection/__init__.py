"""Losses of object detection: boxes, and sets of them."""

from lossfns.detection.boxes import ciou as ciou
from lossfns.detection.boxes import diou as diou
from lossfns.detection.boxes import giou as giou
from lossfns.detection.boxes import iou as iou
from lossfns.detection.matching import SetPrediction as SetPrediction
from lossfns.detection.matching import set_prediction as set_prediction
