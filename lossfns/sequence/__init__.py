"""Losses on sequences: sums over alignments and paths."""

from lossfns.sequence.crf import ViterbiPath as ViterbiPath
from lossfns.sequence.crf import crf_marginals as crf_marginals
from lossfns.sequence.crf import crf_viterbi as crf_viterbi
from lossfns.sequence.crf import linear_chain_crf as linear_chain_crf
from lossfns.sequence.ctc import ctc as ctc
from lossfns.sequence.time_warping import soft_dtw as soft_dtw
from lossfns.sequence.transducer import rnn_transducer as rnn_transducer
