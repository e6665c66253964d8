"""Losses of the overlap between predicted and true regions, for rare labels."""

from lossfns.overlap.counts import dice as dice
from lossfns.overlap.counts import focal_tversky as focal_tversky
from lossfns.overlap.counts import generalized_dice as generalized_dice
from lossfns.overlap.counts import soft_f1 as soft_f1
from lossfns.overlap.counts import tversky as tversky
from lossfns.overlap.lovasz import lovasz_softmax as lovasz_softmax
