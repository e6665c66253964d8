"""Preference losses: which of two answers is better, or whether one is good.

They take log-probabilities of whole answers, which `sequence_log_probs` computes from logits.
"""

from lossfns.preference.dpo import dpo as dpo
from lossfns.preference.dpo import exo as exo
from lossfns.preference.dpo import ipo as ipo
from lossfns.preference.dpo import robust_dpo as robust_dpo
from lossfns.preference.log_probs import sequence_log_probs as sequence_log_probs
from lossfns.preference.per_answer import apo as apo
from lossfns.preference.per_answer import nca as nca
from lossfns.preference.per_answer import sppo as sppo
from lossfns.preference.reference_free import cpo as cpo
from lossfns.preference.reference_free import orpo as orpo
from lossfns.preference.reference_free import simpo as simpo
from lossfns.preference.reference_free import slic_hinge as slic_hinge
from lossfns.preference.reward_model import bradley_terry as bradley_terry
from lossfns.preference.unpaired import RewardShift as RewardShift
from lossfns.preference.unpaired import bco as bco
from lossfns.preference.unpaired import kto as kto
from lossfns.preference.unpaired import update_reward_shift as update_reward_shift
