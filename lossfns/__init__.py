"""Pure, compiled loss functions: arrays in, one value per example, token or pair out.

A loss returns one value per row (an example, a token, a pair) and never averages: `weighted_mean` and `weighted_sum`
do. The following holds for every loss.

Arguments: arrays come first, by position, predictions before targets. Options are keyword-only. Nothing is broadcast.
Three options mean the same in every loss:

- `where`: boolean, of the result's shape unless stated otherwise. False excludes the row: its value is 0, even if its
  inputs are NaN, and the values and gradients of all other rows are as if it were absent. None keeps all rows.
- `axis_name`: the name of a mapped device axis (`jax.shard_map`, `jax.pmap`), or a tuple of names. Negatives, means and
  counts are then taken over the global batch. Each device returns the values of its own rows; summed over devices,
  values and gradients are the same as on one device with the whole batch. All devices must have equally many rows.
- `block_size`: how many columns of a large table are computed at a time, and recomputed in the backward pass, so that
  the table is never materialised. Values and gradients do not depend on it. None chooses a fast size.

Numeric options are traced, so changing a temperature does not recompile; options that select a program (names, flags,
sizes) are static.

Results are float64 if any input is, else float32. The mean of nothing is 0, and an empty batch gives an empty result.

Errors: before anything is computed, a loss raises

- TypeError if an array has the wrong dtype (predictions floating, labels integers, masks boolean) or an option the
  wrong type;
- ValueError if shapes or the structures of pytrees do not fit, or an option is out of range.

Errors that depend on values on the device give NaN in value and gradient instead: a label out of range in its row, a
traced option out of range in every row. A loss's docstring lists only the errors particular to it.
"""

import types as _types
import typing as _typing

from lossfns.classification.cross_entropy import sigmoid_cross_entropy as sigmoid_cross_entropy
from lossfns.classification.cross_entropy import soft_cross_entropy as soft_cross_entropy
from lossfns.classification.cross_entropy import softmax_cross_entropy as softmax_cross_entropy
from lossfns.classification.divergences import generalized_kl as generalized_kl
from lossfns.classification.divergences import jensen_shannon as jensen_shannon
from lossfns.classification.divergences import kl_divergence as kl_divergence
from lossfns.classification.focal import asymmetric as asymmetric
from lossfns.classification.focal import focal as focal
from lossfns.classification.focal import poly1 as poly1
from lossfns.classification.focal import sigmoid_focal as sigmoid_focal
from lossfns.classification.hinge import hinge as hinge
from lossfns.classification.hinge import multiclass_hinge as multiclass_hinge
from lossfns.classification.hinge import squared_hinge as squared_hinge
from lossfns.classification.long_tail import balanced_softmax as balanced_softmax
from lossfns.classification.long_tail import class_balanced_weights as class_balanced_weights
from lossfns.classification.long_tail import ldam as ldam
from lossfns.classification.long_tail import logit_adjusted as logit_adjusted
from lossfns.classification.scoring import brier as brier
from lossfns.classification.scoring import sparsemax as sparsemax
from lossfns.compression.quantization import entropy_of_weights as entropy_of_weights
from lossfns.compression.quantization import fake_quantize as fake_quantize
from lossfns.compression.quantization import kurtosis_penalty as kurtosis_penalty
from lossfns.compression.sparsity import group_lasso as group_lasso
from lossfns.compression.sparsity import hard_concrete_gates as hard_concrete_gates
from lossfns.compression.sparsity import l0_hard_concrete as l0_hard_concrete
from lossfns.compression.sparsity import movement_scores as movement_scores
from lossfns.contrastive.alignment import alignment as alignment
from lossfns.contrastive.alignment import uniformity as uniformity
from lossfns.contrastive.image_text import HardNegativePairs as HardNegativePairs
from lossfns.contrastive.image_text import clip as clip
from lossfns.contrastive.image_text import coca as coca
from lossfns.contrastive.image_text import hard_negative_pairs as hard_negative_pairs
from lossfns.contrastive.image_text import image_text_matching as image_text_matching
from lossfns.contrastive.image_text import siglip as siglip
from lossfns.contrastive.infonce import info_nce as info_nce
from lossfns.contrastive.margin_softmax import arcface as arcface
from lossfns.contrastive.margin_softmax import cosface as cosface
from lossfns.contrastive.metric_learning import circle as circle
from lossfns.contrastive.metric_learning import multi_similarity as multi_similarity
from lossfns.contrastive.metric_learning import n_pairs as n_pairs
from lossfns.contrastive.moco import Enqueued as Enqueued
from lossfns.contrastive.moco import enqueue as enqueue
from lossfns.contrastive.moco import moco as moco
from lossfns.contrastive.moco import moco_v3 as moco_v3
from lossfns.contrastive.nnclr import nnclr as nnclr
from lossfns.contrastive.proxies import proxy_anchor as proxy_anchor
from lossfns.contrastive.proxies import proxy_nca as proxy_nca
from lossfns.contrastive.simclr import debiased_contrastive as debiased_contrastive
from lossfns.contrastive.simclr import decoupled_contrastive as decoupled_contrastive
from lossfns.contrastive.simclr import hard_negative_contrastive as hard_negative_contrastive
from lossfns.contrastive.simclr import nt_xent as nt_xent
from lossfns.contrastive.supcon import supcon as supcon
from lossfns.contrastive.triplet import batch_hard_triplet as batch_hard_triplet
from lossfns.contrastive.triplet import semi_hard_triplet as semi_hard_triplet
from lossfns.contrastive.triplet import triplet as triplet
from lossfns.detection.boxes import ciou as ciou
from lossfns.detection.boxes import diou as diou
from lossfns.detection.boxes import giou as giou
from lossfns.detection.boxes import iou as iou
from lossfns.detection.matching import SetPrediction as SetPrediction
from lossfns.detection.matching import set_prediction as set_prediction
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
from lossfns.hierarchical import PooledSpans as PooledSpans
from lossfns.hierarchical import hierarchical_cross_entropy as hierarchical_cross_entropy
from lossfns.hierarchical import label_tree_cross_entropy as label_tree_cross_entropy
from lossfns.hierarchical import pool_spans as pool_spans
from lossfns.joint_embedding.barlow_vicreg import barlow_twins as barlow_twins
from lossfns.joint_embedding.barlow_vicreg import vicreg as vicreg
from lossfns.joint_embedding.barlow_vicreg import wmse as wmse
from lossfns.joint_embedding.byol import byol as byol
from lossfns.joint_embedding.byol import data2vec as data2vec
from lossfns.joint_embedding.byol import simsiam as simsiam
from lossfns.joint_embedding.dino import dino as dino
from lossfns.joint_embedding.dino import dino_center as dino_center
from lossfns.joint_embedding.dino import ibot as ibot
from lossfns.joint_embedding.dino import linear_dino as linear_dino
from lossfns.joint_embedding.spreading import koleo as koleo
from lossfns.joint_embedding.spreading import sigreg as sigreg
from lossfns.joint_embedding.swav import msn as msn
from lossfns.joint_embedding.swav import sinkhorn as sinkhorn
from lossfns.joint_embedding.swav import swav as swav
from lossfns.language.causal import next_token as next_token
from lossfns.language.causal import next_token_where as next_token_where
from lossfns.language.causal_variants import frequency_weighted as frequency_weighted
from lossfns.language.causal_variants import multi_token_prediction as multi_token_prediction
from lossfns.language.causal_variants import multi_token_where as multi_token_where
from lossfns.language.causal_variants import prefix_lm as prefix_lm
from lossfns.language.causal_variants import prefix_lm_where as prefix_lm_where
from lossfns.language.causal_variants import previous_tokens as previous_tokens
from lossfns.language.causal_variants import unlikelihood as unlikelihood
from lossfns.language.denoising import CorruptedSpans as CorruptedSpans
from lossfns.language.denoising import corrupt_spans as corrupt_spans
from lossfns.language.denoising import replaced_token_detection as replaced_token_detection
from lossfns.language.denoising import span_corruption as span_corruption
from lossfns.language.linear import linear_cross_entropy as linear_cross_entropy
from lossfns.language.linear import linear_log_probs as linear_log_probs
from lossfns.language.linear import linear_sequence_log_probs as linear_sequence_log_probs
from lossfns.language.masked import MaskedTokens as MaskedTokens
from lossfns.language.masked import apply_mlm_mask as apply_mlm_mask
from lossfns.language.masked import masked_lm as masked_lm
from lossfns.language.masked_positions import Labelled as Labelled
from lossfns.language.masked_positions import gather_labelled as gather_labelled
from lossfns.language.sentences import next_sentence as next_sentence
from lossfns.language.sentences import sentence_order as sentence_order
from lossfns.noisy_labels.bounded import generalized_cross_entropy as generalized_cross_entropy
from lossfns.noisy_labels.bounded import normalized_active_passive as normalized_active_passive
from lossfns.noisy_labels.bounded import symmetric_cross_entropy as symmetric_cross_entropy
from lossfns.noisy_labels.corrected import EarlyLearning as EarlyLearning
from lossfns.noisy_labels.corrected import bootstrapped as bootstrapped
from lossfns.noisy_labels.corrected import early_learning as early_learning
from lossfns.noisy_labels.corrected import forward_corrected as forward_corrected
from lossfns.noisy_labels.tempered import bi_tempered as bi_tempered
from lossfns.overlap.counts import dice as dice
from lossfns.overlap.counts import focal_tversky as focal_tversky
from lossfns.overlap.counts import generalized_dice as generalized_dice
from lossfns.overlap.counts import soft_f1 as soft_f1
from lossfns.overlap.counts import tversky as tversky
from lossfns.overlap.lovasz import lovasz_softmax as lovasz_softmax
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
from lossfns.reconstruction.generative import denoising_score_matching as denoising_score_matching
from lossfns.reconstruction.generative import diffusion as diffusion
from lossfns.reconstruction.generative import flow_matching as flow_matching
from lossfns.reconstruction.images import corrupt as corrupt
from lossfns.reconstruction.images import denoising as denoising
from lossfns.reconstruction.images import masked_patches as masked_patches
from lossfns.reconstruction.images import simmim as simmim
from lossfns.reconstruction.likelihood import beta_vae as beta_vae
from lossfns.reduce import weighted_mean as weighted_mean
from lossfns.reduce import weighted_sum as weighted_sum
from lossfns.regression.asymmetric import expectile as expectile
from lossfns.regression.asymmetric import quantile as quantile
from lossfns.regression.errors import absolute_error as absolute_error
from lossfns.regression.errors import charbonnier as charbonnier
from lossfns.regression.errors import huber as huber
from lossfns.regression.errors import log_cosh as log_cosh
from lossfns.regression.errors import smooth_l1 as smooth_l1
from lossfns.regression.errors import squared_error as squared_error
from lossfns.regression.errors import tukey_biweight as tukey_biweight
from lossfns.regression.likelihood import gaussian_nll as gaussian_nll
from lossfns.regression.likelihood import poisson_nll as poisson_nll
from lossfns.regression.relative import cosine_distance as cosine_distance
from lossfns.regression.relative import log_squared_error as log_squared_error
from lossfns.regression.robust import adaptive_barron as adaptive_barron
from lossfns.regression.robust import barron as barron
from lossfns.regularizers.functions import fisher_diagonal as fisher_diagonal
from lossfns.regularizers.functions import gradient_penalty as gradient_penalty
from lossfns.regularizers.functions import vat as vat
from lossfns.regularizers.mixing import Mixed as Mixed
from lossfns.regularizers.mixing import cutmix as cutmix
from lossfns.regularizers.mixing import mixup as mixup
from lossfns.regularizers.parameters import elastic_net as elastic_net
from lossfns.regularizers.parameters import ewc as ewc
from lossfns.regularizers.parameters import l1 as l1
from lossfns.regularizers.parameters import l2 as l2
from lossfns.regularizers.parameters import l2_sp as l2_sp
from lossfns.regularizers.parameters import orthogonality as orthogonality
from lossfns.regularizers.parameters import proximal as proximal
from lossfns.regularizers.predictions import confidence_penalty as confidence_penalty
from lossfns.regularizers.predictions import entropy_minimization as entropy_minimization
from lossfns.regularizers.predictions import moe_load_balance as moe_load_balance
from lossfns.regularizers.predictions import r_drop as r_drop
from lossfns.regularizers.predictions import router_z as router_z
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
from lossfns.sequence.crf import ViterbiPath as ViterbiPath
from lossfns.sequence.crf import crf_marginals as crf_marginals
from lossfns.sequence.crf import crf_viterbi as crf_viterbi
from lossfns.sequence.crf import linear_chain_crf as linear_chain_crf
from lossfns.sequence.ctc import ctc as ctc
from lossfns.sequence.time_warping import soft_dtw as soft_dtw
from lossfns.sequence.transducer import rnn_transducer as rnn_transducer
from lossfns.trees.arcs import arc_cross_entropy as arc_cross_entropy
from lossfns.trees.arcs import dependency_tree_crf as dependency_tree_crf
from lossfns.trees.smoothness import tree_smoothness as tree_smoothness
from lossfns.trees.spans import span_tree_crf as span_tree_crf

__version__ = "0.1.0"
__all__ = [name for name, x in globals().items() if name[0] != "_" and not isinstance(x, _types.ModuleType)]

if not _typing.TYPE_CHECKING:  # otherwise a type checker would accept every misspelt name

    def __getattr__(name: str) -> _typing.NoReturn:
        """Suggests the function for a name from another library."""
        from lossfns._synonyms import named, similar

        public = [] if name.startswith("_") else [known for known in globals() if not known.startswith("_")]
        found = named(name, public) or similar(name, public)
        hint = f"; did you mean {' or '.join(found)}?" if found else ""
        raise AttributeError(f"module 'lossfns' has no attribute {name!r}{hint}")
