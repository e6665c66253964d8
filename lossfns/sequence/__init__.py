"""Losses on sequences: sums over alignments and paths."""

from lossfns.sequence.crf import ViterbiPath as ViterbiPath
from lossfns.sequence.crf import linear_chain_crf as linear_chain_crf
from lossfns.sequence.crf import marginals as marginals
from lossfns.sequence.crf import viterbi as viterbi
from lossfns.sequence.ctc import ctc as ctc
from lossfns.sequence.time_warping import soft_dtw as soft_dtw
from lossfns.sequence.transducer import rnn_transducer as rnn_transducer
