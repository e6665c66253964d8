"""Losses of reinforcement learning, and the advantages and weights that go with them."""

from lossfns.reinforcement.advantages import gae as gae
from lossfns.reinforcement.advantages import group_advantages as group_advantages
from lossfns.reinforcement.advantages import rloo as rloo
from lossfns.reinforcement.groups import grpo as grpo
from lossfns.reinforcement.groups import token_weights as token_weights
from lossfns.reinforcement.policy import entropy_bonus as entropy_bonus
from lossfns.reinforcement.policy import kl_estimate as kl_estimate
from lossfns.reinforcement.policy import policy_gradient as policy_gradient
from lossfns.reinforcement.policy import ppo_clip as ppo_clip
from lossfns.reinforcement.policy import value_clip as value_clip
from lossfns.reinforcement.presets import cispo as cispo
from lossfns.reinforcement.presets import dapo as dapo
from lossfns.reinforcement.presets import dr_grpo as dr_grpo
from lossfns.reinforcement.presets import gspo as gspo
