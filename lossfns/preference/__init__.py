"""Losses of preference: which of two answers is better, or whether one is good.

They take log-probabilities of whole answers, which `sequence_log_probs` makes of logits.
"""

from lossfns.preference.contrasts import cpo as cpo
from lossfns.preference.contrasts import orpo as orpo
from lossfns.preference.contrasts import simpo as simpo
from lossfns.preference.contrasts import slic_hinge as slic_hinge
from lossfns.preference.margins import dpo as dpo
from lossfns.preference.margins import exo as exo
from lossfns.preference.margins import ipo as ipo
from lossfns.preference.margins import robust_dpo as robust_dpo
from lossfns.preference.ratios import apo as apo
from lossfns.preference.ratios import nca as nca
from lossfns.preference.ratios import sppo as sppo
from lossfns.preference.rewards import bradley_terry as bradley_terry
from lossfns.preference.sequences import sequence_log_probs as sequence_log_probs
from lossfns.preference.unpaired import RewardShift as RewardShift
from lossfns.preference.unpaired import bco as bco
from lossfns.preference.unpaired import kto as kto
from lossfns.preference.unpaired import update_reward_shift as update_reward_shift
