"""Names of other libraries and papers for the functions of this package."""

import difflib
from collections.abc import Iterable, Mapping

NAMES: Mapping[str, str] = {
    "softmax_cross_entropy": """
        cross_entropy CrossEntropyLoss categorical_cross_entropy sparse_categorical_cross_entropy nll log_loss
        softmax_cross_entropy_with_integer_labels sparse_softmax_cross_entropy_with_logits label_smoothing z_loss
        ce smoothed_cross_entropy negative_log_likelihood""",
    "soft_cross_entropy": """
        cross_entropy CategoricalCrossentropy softmax_cross_entropy_with_logits safe_softmax_cross_entropy
        soft_target_cross_entropy soft_labels""",
    "sigmoid_cross_entropy": """
        bce bce_with_logits binary_cross_entropy binary_cross_entropy_with_logits sigmoid_binary_cross_entropy
        sigmoid_cross_entropy_with_logits logistic_loss MultiLabelSoftMarginLoss SoftMarginLoss binary_logistic""",
    "squared_error": "mse mean_squared_error l2_loss squared_loss quadratic_loss brier_regression",
    "absolute_error": "mae mae_loss L1Loss mean_absolute_error",
    "log_cosh": "LogCoshError",
    "log_squared_error": "msle squared_log_error mean_squared_logarithmic_error rmsle",
    "quantile": "pinball mean_pinball_loss",
    "expectile": "iql_value_loss asymmetric_l2",
    "cosine_distance": "CosineEmbeddingLoss cosine_loss cosine_similarity",
    "gaussian_nll": "heteroscedastic normal_nll",
    "poisson_nll": "poisson",
    "charbonnier": "pseudo_huber",
    "barron": "general_robust_loss general adaptive_robust_loss robust_loss",
    "adaptive_barron": "adaptive_robust_loss AdaptiveLossFunction",
    "tukey_biweight": "tukey bisquare",
    "hinge": "HingeEmbeddingLoss svm_loss max_margin",
    "squared_hinge": "l2_svm",
    "multiclass_hinge": "MultiMarginLoss crammer_singer weston_watkins",
    "sparsemax": "multiclass_sparsemax_loss",
    "brier": "brier_score",
    "focal": "focal_loss softmax_focal_loss categorical_focal_loss",
    "sigmoid_focal": "focal_loss binary_focal_loss retinanet_loss",
    "asymmetric": "asl AsymmetricLossMultiLabel",
    "poly1": "polyloss poly1_cross_entropy poly_loss_cross_entropy",
    "kl_divergence": "kl kl_div kld kullback_leibler convex_kl_divergence",
    "reverse_kl": "kl_div_reverse minillm mode_seeking_kl",
    "generalized_kl": "i_divergence",
    "jensen_shannon": "js js_div jsd js_divergence",
    "generalized_jsd": "gkd generalized_knowledge_distillation",
    "total_variation": "tv tv_distance tvd",
    "balanced_softmax": "bal_sm balanced_meta_softmax",
    "class_balanced_weights": "effective_number class_balanced_loss cb_loss cb_focal",
    "logit_adjusted": "logit_adjustment logit_adjusted_cross_entropy",
    "ldam": "ldam_drw label_distribution_aware_margin",
    "generalized_cross_entropy": "gce truncated_gce",
    "symmetric_cross_entropy": "sce",
    "normalized_active_passive": "apl nce_rce nce_and_rce normalized_cross_entropy nfl",
    "bi_tempered": "bi_tempered_logistic tempered_logistic",
    "bootstrapped": "bootstrap soft_bootstrapping hard_bootstrapping bootstrapping",
    "early_learning": "elr early_learning_regularization",
    "forward_corrected": "forward_correction forward_loss loss_correction noise_transition",
    "dice": "soft_dice dice_coefficient",
    "generalized_dice": "gdl",
    "tversky": "tversky_index jaccard jaccard_loss iou_loss",
    "lovasz_softmax": "lovasz lovasz_hinge",
    "soft_f1": "f1 macro_f1 macro_double_soft_f1",
    "info_nce": "nce cpc contrastive_loss multiple_negatives_ranking",
    "nt_xent": "simclr contrastive_loss",
    "supcon": "supervised_contrastive",
    "clip": "openclip convirt image_text_contrastive itc",
    "siglip": "sigmoid_contrastive",
    "image_text_matching": "itm albef",
    "moco": "momentum_contrast moco_v1 moco_v2",
    "enqueue": "memory_queue memory_bank dequeue_and_enqueue",
    "n_pairs": "n_pair",
    "triplet": "TripletMarginLoss TripletMarginWithDistanceLoss",
    "batch_hard_triplet": "batch_hard triplet_hard",
    "semi_hard_triplet": "triplet_semihard batch_semi_hard_triplet",
    "multi_similarity": "ms_loss",
    "arcface": "aam_softmax additive_angular_margin",
    "cosface": "am_softmax large_margin_cosine lmcl",
    "proxy_nca": "proxy_nca_pp proxy_nca_plus_plus normalized_softmax",
    "debiased_contrastive": "dcl_debiased debiased",
    "decoupled_contrastive": "dcl decoupled dclw",
    "hard_negative_contrastive": "hcl hard_negative robinson",
    "alignment": "align_loss lalign",
    "uniformity": "uniform_loss lunif",
    "barlow_twins": "barlow",
    "simsiam": "NegativeCosineSimilarity",
    "byol": "bootstrap_your_own_latent",
    "ibot": "iBOTPatchLoss",
    "msn": "masked_siamese",
    "koleo": "kozachenko_leonenko",
    "wmse": "whitening_mse",
    "sigreg": "lejepa",
    "sinkhorn": "sinkhorn_knopp",
    "knowledge_distillation": "kd distillation soft_distillation hinton",
    "dkd": "decoupled_knowledge_distillation",
    "fitnet_hint": "fitnets fitnet hint",
    "crd": "contrastive_representation_distillation",
    "relational_distance": "rkd rkd_d RkdDistance",
    "relational_angle": "rkd rkd_a RKdAngle",
    "similarity_preserving": "sp_loss similarity",
    "minilm": "minilmv2",
    "linear_cross_entropy": """
        fused_linear_cross_entropy LigerFusedLinearCrossEntropyLoss liger chunked_cross_entropy cut_cross_entropy
        cce""",
    "next_token": "causal_lm clm language_modeling lm_loss autoregressive",
    "masked_lm": "mlm masked_language_modeling",
    "apply_mlm_mask": "mask_tokens data_collator_for_language_modeling",
    "next_sentence": "nsp",
    "sentence_order": "sop",
    "replaced_token_detection": "rtd electra",
    "span_corruption": "t5_loss",
    "multi_token_prediction": "mtp",
    "ctc": "connectionist_temporal_classification",
    "rnn_transducer": "rnnt transducer",
    "linear_chain_crf": "crf",
    "crf_viterbi": "viterbi crf_decode viterbi_decode",
    "crf_marginals": "marginals forward_backward",
    "soft_dtw": "sdtw dtw",
    "dependency_tree_crf": "matrix_tree biaffine_crf",
    "arc_cross_entropy": "biaffine",
    "span_tree_crf": "inside_algorithm constituency_crf",
    "dpo": "DPOTrainer direct_preference_optimization sigmoid_dpo",
    "robust_dpo": "rdpo",
    "kto": "KTOTrainer kto_pair",
    "bco": "BCOTrainer bco_pair",
    "orpo": "ORPOTrainer odds_ratio_loss",
    "cpo": "CPOTrainer",
    "exo": "exo_pair",
    "nca": "nca_pair",
    "sppo": "sppo_hard",
    "apo": "apo_zero apo_down",
    "slic_hinge": "slic slic_hf",
    "bradley_terry": "reward_model_loss RewardTrainer reward_loss pairwise_ranking MarginRankingLoss",
    "grpo": "GRPOTrainer group_relative_policy_optimization",
    "rloo": "RLOOTrainer reinforce_leave_one_out",
    "ppo_clip": "ppo PPOTrainer clipped_surrogate proximal_policy_optimization",
    "policy_gradient": "reinforce pg_loss a2c vpg",
    "value_clip": "value_loss ppo_value_loss clipped_value",
    "gae": "generalized_advantage_estimation advantages",
    "entropy_bonus": "policy_entropy",
    "kl_estimate": "k1 k2 k3 approx_kl kl_penalty",
    "beta_vae": "vae elbo negative_elbo",
    "diffusion": "ddpm min_snr v_prediction",
    "flow_matching": "cfm rectified_flow conditional_flow_matching",
    "denoising_score_matching": "dsm score_matching",
    "masked_patches": "mae masked_autoencoder mae_reconstruction",
    "iou": "iou_loss jaccard",
    "giou": "generalized_box_iou_loss generalized_iou",
    "diou": "distance_box_iou_loss distance_iou",
    "ciou": "complete_box_iou_loss complete_iou",
    "set_prediction": "detr hungarian set_criterion",
    "l1": "lasso l1_regularization l1_penalty",
    "l2": "ridge l2_regularization l2_penalty weight_decay tikhonov",
    "elastic_net": "elastic",
    "ewc": "elastic_weight_consolidation",
    "proximal": "fedprox",
    "gradient_penalty": "wgan_gp gp r1 r2 r1_penalty",
    "vat": "virtual_adversarial_training",
    "confidence_penalty": "entropy_regularization max_entropy",
    "entropy_minimization": "entmin min_entropy",
    "moe_load_balance": "load_balancing_loss aux_loss switch_aux_loss load_balance",
    "fake_quantize": "lsq qat fake_quant fake_quantise",
    "kurtosis_penalty": "kure",
    "label_tree_cross_entropy": "hxe hierarchical_cross_entropy_tree",
    "weighted_mean": "mean reduction average masked_mean reduce_mean",
    "weighted_sum": "sum masked_sum reduce_sum",
}
"""Public name -> its other names, case and underscores aside; a name may mean several."""


def named(name: str, public: Iterable[str]) -> list[str]:
    """The public names for another library's name."""
    for wanted in (_plain(name), _plain(name).removesuffix("loss")):
        found = [ours for ours in public if _plain(ours) == wanted]
        found += [ours for ours, others in NAMES.items() if wanted in map(_plain, others.split())]
        if found:
            return list(dict.fromkeys(found))
    return []


def similar(name: str, public: Iterable[str]) -> list[str]:
    """Up to three public names that are spelt like a name."""
    plain = {_plain(ours): ours for ours in public}
    return [plain[close] for close in difflib.get_close_matches(_plain(name), plain, n=3, cutoff=0.6)]


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
