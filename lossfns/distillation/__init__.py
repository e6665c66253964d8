"""Distillation: a small model learns from the predictions and the representations of a large one."""

from lossfns.distillation.features import attention_transfer as attention_transfer
from lossfns.distillation.features import fitnet_hint as fitnet_hint
from lossfns.distillation.features import minilm as minilm
from lossfns.distillation.linear import linear_distillation as linear_distillation
from lossfns.distillation.logits import dkd as dkd
from lossfns.distillation.logits import generalized_jsd as generalized_jsd
from lossfns.distillation.logits import knowledge_distillation as knowledge_distillation
from lossfns.distillation.logits import reverse_kl as reverse_kl
from lossfns.distillation.logits import total_variation as total_variation
from lossfns.distillation.relations import crd as crd
from lossfns.distillation.relations import relational_angle as relational_angle
from lossfns.distillation.relations import relational_distance as relational_distance
from lossfns.distillation.relations import similarity_preserving as similarity_preserving
