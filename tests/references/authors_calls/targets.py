"""Losses with targets: labels, values, boxes, patches and teachers."""

import functools
import io

import jax.numpy as jnp
import numpy as np

import lossfns
from tests.references.authors_calls.call import Call, Code, module, normal, with_labels
from tests.references.authors_calls.preferences import TRL_COMMIT

COUNTS = np.array([50.0, 20.0, 6.0, 2.0])


def _asymmetric(code, logits, targets, *, constant_weights):
    return code.AsymmetricLoss(disable_torch_grad_focal_loss=constant_weights)(logits, targets)


def _our_asymmetric(logits, targets, **options):
    return lossfns.asymmetric(logits, targets, gamma_positive=1.0, **options).sum()


def _binary(rng):
    return rng.normal(size=(4, 5)).round(3), rng.integers(0, 2, (4, 5)).astype(float)


def _ldam(code, logits, labels):
    code.torch.cuda.FloatTensor = code.torch.DoubleTensor
    # `where` took integers as a condition when this was written.
    where, code.torch.where = code.torch.where, lambda c, a, b: where(c.bool(), a, b)
    try:
        return code.LDAMLoss(COUNTS)(logits, labels)
    finally:
        code.torch.where = where


def _class_focal(code, logits, labels):
    return code.FocalLoss(gamma=1.5)(logits, labels)


def _lovasz(code, logits, labels, **options):
    code.Variable = code.torch.autograd.Variable
    return code.lovasz_softmax_flat(logits.softmax(-1), labels, **options)


def _active_passive(code, name, logits, labels, *args):
    code.device = "cpu"
    return getattr(code, name)(*args, num_classes=logits.shape[-1])(logits, labels)


def _early_learning(code, logits, labels, targets):
    config = {"train_loss": {"args": {"lambda": 3.0}}}
    self = module(beta=0.7, target=targets.clone(), config=config)
    return code.forward(self, code.torch.arange(len(logits)), logits, labels)


def _bi_tempered(code, logits, labels):
    one_hot = code.jax.nn.one_hot(labels, logits.shape[-1])
    code.cond, code.while_loop, code.logsumexp = code.jax.lax.cond, code.jax.lax.while_loop, code.jax.nn.logsumexp
    code.bi_tempered_logistic_loss.defvjp(code.bi_tempered_logistic_loss_fwd, code.bi_tempered_logistic_loss_bwd)
    return code.bi_tempered_logistic_loss(logits, one_hot, 0.8, 1.2, 0.0, 200)


def _boxes(rng):
    corners = rng.random((2, 5, 2)).round(3)
    sizes = (0.2 + rng.random((2, 5, 2))).round(3)
    return list(np.concatenate([corners, corners + sizes], -1))


def _masked_patches(code, predictions, patches, masked):
    self = module(norm_pix_loss=True, patchify=lambda images: images)
    return code.forward_loss(self, patches, predictions, masked.to(predictions.dtype))


def _our_masked_patches(predictions, patches, masked):
    values = lossfns.masked_patches(predictions, patches, norm_pix=True, where=masked)
    return values.sum() / masked.sum()


def _patches(rng):
    return *normal((2, 3, 4), (2, 3, 4))(rng), np.array([[True, False, True], [False, True, True]])


def _barron(code, errors, alpha, scale):
    code.util = code
    return code.lossfun(errors, alpha, scale)


def _our_barron(errors, alpha, scale):
    return lossfns.barron(errors, alpha=alpha, scale=scale)


def _shapes(rng):
    """Errors, shapes away from 0 and 2, where the author's code takes a limit, and scales."""
    return rng.normal(size=(3, 4)).round(3), np.array([-1.5, 0.5, 1.0, 3.0]), (0.5 + rng.random(4)).round(3)


def _at(*shapes):
    return lambda rng: (rng.normal(size=(3, 2)).round(3), np.array(shapes), (0.5 + rng.random(2)).round(3))


def _densities(rng):
    return rng.normal(size=(3, 4)).round(3), np.array([0.1, 0.7, 1.3, 1.9]), (0.5 + rng.random(4)).round(3)


def _adaptive_barron(code, errors, alpha, scale):
    code.util = code.general = code.cubic_spline = code
    table = code.np.load(io.BytesIO(code.read("robust_loss_pytorch/resources/partition_spline.npz")))
    spline = {"_spline_x_scale": "x_scale", "_spline_values": "values", "_spline_tangents": "tangents"}
    self = module(**{name: code.torch.tensor(table[key]) for name, key in spline.items()})
    self.log_base_partition_function = functools.partial(code.log_base_partition_function, self)
    return code.nllfun(self, errors, alpha, scale)


def _dkd(code, student, teacher, labels):
    return code.dkd_loss(student, teacher, labels, 1.0, 8.0, 4.0)


def _relations(code, student, teacher, **options):
    return code.rkd_loss(student, teacher, **options)


def _our_distance(student, teacher):
    """They average over all N^2 places, the diagonal among them."""
    count = len(student)
    return lossfns.relational_distance(student, teacher).mean() * (count - 1) / count


def _our_angle(student, teacher):
    """They average over all N^3 places."""
    count = len(student)
    return lossfns.relational_angle(student, teacher).mean() * (count - 1) * (count - 2) / count**2


def _similarity(code, student, teacher):
    return code.similarity_loss(None, student, teacher)[0]


def _crd(code, student, teacher, negatives):
    """One side, with the critic's exponentials undivided."""
    student, teacher, negatives = (code.F.normalize(x) for x in (student, teacher, negatives))
    critic = code.torch.cat([(student * teacher).sum(1, keepdim=True), student @ negatives.T], 1)
    return code.ContrastLoss(100)((critic / 0.5).exp()[..., None])[0]


def _our_crd(student, teacher, negatives):
    return lossfns.crd(student, teacher, negatives, dataset_size=100, temperature=0.5).mean()


def _distillation(code, student, teacher, labels):
    return code.distillation(student, teacher, labels, 3.0, 1.0)


ASL = Code(
    "Alibaba-MIIL/ASL", "8c9e0bd8d5d450cf19093363fc08aa7244ad4408", {"src/loss_functions/losses.py": ["AsymmetricLoss"]}
)
LDAM = Code(
    "kaidic/LDAM-DRW",
    "2536330f2afdaa65618323cb5a5850efccce762a",
    {"losses.py": ["focal_loss", "FocalLoss", "LDAMLoss"]},
)
LOVASZ = Code(
    "bermanmaxim/LovaszSoftmax",
    "7d48792d35a04d3167de488dd00daabbccd8334b",
    {"pytorch/lovasz_losses.py": ["lovasz_grad", "lovasz_softmax_flat", "mean"]},
)
ACTIVE_PASSIVE = Code(
    "HanxunH/Active-Passive-Losses",
    "04bce5344035ca69102b9cfb0228df0f49f1707d",
    {
        "loss.py": [
            "SCELoss",
            "ReverseCrossEntropy",
            "NormalizedCrossEntropy",
            "GeneralizedCrossEntropy",
            "NCEandRCE",
        ]
    },
)
ELR = Code("shengliu66/ELR", "934af53434a336b6db80d05d7649d23216e8ca6d", {"ELR/model/loss.py": ["elr_loss.forward"]})
BI_TEMPERED = Code(
    "google/bi-tempered-loss",
    "1c65c7770a3aa76a9515c67f15cfdbaad0e8cf88",
    {
        "jax/loss.py": [
            "_cross_entropy_loss",
            "log_t",
            "exp_t",
            "compute_normalization_fixed_point",
            "compute_normalization_binary_search",
            "compute_tempered_normalization",
            "compute_normalization",
            "tempered_softmax",
            "bi_tempered_logistic_loss_fwd",
            "bi_tempered_logistic_loss",
            "bi_tempered_logistic_loss_bwd",
        ]
    },
    jax=True,
)
FVCORE = Code(
    "facebookresearch/fvcore",
    "3378afe0d71dc2aa95e358bc78dc9b67cb48825a",
    {"fvcore/nn/focal_loss.py": ["sigmoid_focal_loss"], "fvcore/nn/giou_loss.py": ["giou_loss"]},
)
MAE = Code(
    "facebookresearch/mae",
    "efb2a8062c206524e35e47d04501ed4f544c0ae8",
    {"models_mae.py": ["MaskedAutoencoderViT.forward_loss"]},
)
BARRON = Code(
    "jonbarron/robust_loss_pytorch",
    "9831f1db8006105fe7a383312fba0e8bd975e7f6",
    {
        "robust_loss_pytorch/util.py": ["log_safe", "log1p_safe", "expm1_safe"],
        "robust_loss_pytorch/general.py": ["lossfun"],
        "robust_loss_pytorch/cubic_spline.py": ["interpolate1d"],
        "robust_loss_pytorch/distribution.py": [
            "partition_spline_curve",
            "Distribution.log_base_partition_function",
            "Distribution.nllfun",
        ],
    },
)
MDISTILLER_COMMIT = "a08d46f10d6102bd6e3f258ca5ac880b020ea259"
DKD = Code(
    "megvii-research/mdistiller",
    MDISTILLER_COMMIT,
    {"mdistiller/distillers/DKD.py": ["_get_gt_mask", "_get_other_mask", "cat_mask", "dkd_loss"]},
)
RKD = Code("megvii-research/mdistiller", MDISTILLER_COMMIT, {"mdistiller/distillers/RKD.py": ["_pdist", "rkd_loss"]})
ATTENTION = Code(
    "szagoruyko/attention-transfer",
    "893df5488f93691799f082a70e2521a9dc2ddf2d",
    {"utils.py": ["distillation", "at", "at_loss"]},
)
REP_DISTILLER = Code(
    "HobbitLong/RepDistiller",
    "b84f547c5db6a35318d4671d7d5c4de74c822403",
    {"crd/criterion.py": ["eps", "ContrastLoss"], "distiller_zoo/SP.py": ["Similarity.similarity_loss"]},
)
GKD = Code("huggingface/trl", TRL_COMMIT, {"trl/experimental/gkd/gkd_trainer.py": ["GKDTrainer.generalized_jsd_loss"]})
FOUR_CLASSES = with_labels(4, (6, 4))
STUDENT_AND_TEACHER = with_labels(4, (6, 4), (6, 4))

CALLS = {
    "asymmetric": Call(
        "asymmetric", ASL, _binary, functools.partial(_asymmetric, constant_weights=False), _our_asymmetric
    ),
    "asymmetric with constant weights": Call(
        "asymmetric",
        ASL,
        _binary,
        functools.partial(_asymmetric, constant_weights=True),
        functools.partial(_our_asymmetric, constant_weights=True),
    ),
    "ldam": Call(
        "ldam",
        LDAM,
        FOUR_CLASSES,
        _ldam,
        lambda logits, labels: lossfns.ldam(logits, labels, jnp.asarray(COUNTS)).mean(),
    ),
    "focal of LDAM": Call(
        "focal", LDAM, FOUR_CLASSES, _class_focal, lambda logits, y: lossfns.focal(logits, y, gamma=1.5).mean()
    ),
    "lovasz_softmax": Call(
        "lovasz_softmax", LOVASZ, with_labels(3, (6, 4)), _lovasz, lambda *x: lossfns.lovasz_softmax(*x).mean()
    ),
    "lovasz_softmax of all classes": Call(
        "lovasz_softmax",
        LOVASZ,
        with_labels(3, (6, 4)),
        functools.partial(_lovasz, classes="all"),
        lambda *x: lossfns.lovasz_softmax(*x, absent="keep").mean(),
    ),
    # They clip labels at 1e-4.
    "symmetric_cross_entropy of Active-Passive": Call(
        "symmetric_cross_entropy",
        ACTIVE_PASSIVE,
        FOUR_CLASSES,
        lambda code, x, y: _active_passive(code, "SCELoss", x, y, 0.1, 1.0),
        lambda *x: lossfns.symmetric_cross_entropy(*x, log_zero=np.log(1e-4)).mean(),
    ),
    "normalized_active_passive": Call(
        "normalized_active_passive",
        ACTIVE_PASSIVE,
        FOUR_CLASSES,
        lambda code, x, y: _active_passive(code, "NCEandRCE", x, y, 10.0, 0.1),
        lambda *x: lossfns.normalized_active_passive(*x, alpha=10.0, beta=0.1, log_zero=np.log(1e-4)).mean(),
    ),
    "generalized_cross_entropy of Active-Passive": Call(
        "generalized_cross_entropy",
        ACTIVE_PASSIVE,
        FOUR_CLASSES,
        lambda code, x, y: _active_passive(code, "GeneralizedCrossEntropy", x, y),
        lambda *x: lossfns.generalized_cross_entropy(*x).mean(),
    ),
    "early_learning": Call(
        "early_learning",
        ELR,
        lambda rng: [*FOUR_CLASSES(rng), rng.dirichlet(np.ones(4), 6).round(3)],
        _early_learning,
        lambda *x: lossfns.early_learning(*x).values.mean(),
    ),
    # In 200 iterations, not their 5: they do not converge sooner.
    "bi_tempered": Call("bi_tempered", BI_TEMPERED, FOUR_CLASSES, _bi_tempered, lossfns.bi_tempered, tolerance=1e-8),
    "sigmoid_focal": Call(
        "sigmoid_focal",
        FVCORE,
        _binary,
        lambda code, x, t: code.sigmoid_focal_loss(x, t, alpha=0.25),
        lossfns.sigmoid_focal,
    ),
    # They add 1e-7 to areas.
    "giou": Call("giou", FVCORE, _boxes, lambda code, a, b: code.giou_loss(a, b), lossfns.giou, (0, 1), 1e-6),
    "masked_patches": Call("masked_patches", MAE, _patches, _masked_patches, _our_masked_patches),
    "barron": Call("barron with learned options", BARRON, _shapes, _barron, _our_barron, (0, 1, 2)),
    # Not by alpha, where theirs is 0.
    "barron at 0 and 2": Call("barron", BARRON, _at(0.0, 2.0), _barron, _our_barron, (0, 2)),
    # Values alone: their gradients are NaN.
    "barron at infinity": Call("barron", BARRON, _at(-np.inf, np.inf), _barron, _our_barron, ()),
    # Their table of the partition function is good to 1e-6, its slope to less.
    "adaptive_barron": Call(
        "adaptive_barron with learned options",
        BARRON,
        _densities,
        _adaptive_barron,
        lambda errors, alpha, scale: lossfns.adaptive_barron(errors, alpha=alpha, scale=scale),
        (0, 1, 2),
        1e-5,
    ),
    "dkd": Call("dkd", DKD, STUDENT_AND_TEACHER, _dkd, lambda *x: lossfns.dkd(*x).mean()),
    "knowledge_distillation": Call(
        "knowledge_distillation",
        ATTENTION,
        STUDENT_AND_TEACHER,
        _distillation,
        lambda s, t, y: lossfns.knowledge_distillation(s, t, temperature=3.0).mean(),
    ),
    "attention_transfer": Call(
        "attention_transfer",
        ATTENTION,
        normal((3, 2, 2, 3), (3, 4, 2, 3)),
        lambda code, s, t: code.at_loss(s, t),
        lambda s, t: lossfns.attention_transfer(*(jnp.moveaxis(x, 1, -1) for x in (s, t)), form="mean_square").mean(),
    ),
    "relational_distance of mdistiller": Call(
        "relational_distance",
        RKD,
        normal((5, 3), (5, 4)),
        functools.partial(_relations, distance_weight=1.0, angle_weight=0.0),
        _our_distance,
    ),
    "relational_angle of mdistiller": Call(
        "relational_angle",
        RKD,
        normal((5, 3), (5, 4)),
        functools.partial(_relations, distance_weight=0.0, angle_weight=1.0),
        _our_angle,
    ),
    "similarity_preserving of RepDistiller": Call(
        "similarity_preserving",
        REP_DISTILLER,
        normal((4, 3), (4, 5)),
        _similarity,
        lambda s, t: lossfns.similarity_preserving(s, t).mean(),
    ),
    # They add 1e-7 to the denominators.
    "crd": Call("crd", REP_DISTILLER, normal((4, 3), (4, 3), (5, 3)), _crd, _our_crd, tolerance=1e-5),
} | {
    f"generalized_jsd of TRL, {beta}": Call(
        "generalized_jsd",
        GKD,
        normal((6, 4), (6, 4)),
        lambda code, s, t, beta=beta: code.generalized_jsd_loss(s, t, beta=beta),
        # At the ends they take the plain divergences.
        lambda s, t, beta=beta: lossfns.generalized_jsd(s, t, beta=beta, normalize=beta in (0.0, 1.0)).mean(),
    )
    for beta in (0.0, 0.3, 1.0)
}
