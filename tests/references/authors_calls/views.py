"""Losses of two views: contrastive and self-distilled."""

import functools

import jax.numpy as jnp
import numpy as np

import lossfns
from tests.references.authors_calls.call import Call, Code, identity, module, normal, with_labels


def _tensorflow(jax, jnp):
    """The operations of TensorFlow that SimCLR's loss calls, by JAX."""

    def cross_entropy(labels, logits):
        return -(labels * jax.nn.log_softmax(logits)).sum(-1)

    def l2_normalize(x, axis):
        return x / jnp.sqrt(jnp.maximum(jnp.square(x).sum(axis, keepdims=True), 1e-12))

    return module(
        math=module(l2_normalize=l2_normalize),
        nn=module(softmax_cross_entropy_with_logits=cross_entropy),
        split=jnp.split,
        shape=jnp.shape,
        range=jnp.arange,
        one_hot=jax.nn.one_hot,
        matmul=lambda a, b, transpose_b: a @ b.T,
        concat=jnp.concatenate,
        reduce_mean=jnp.mean,
    )


def _simclr(code, a, b):
    code.tf = _tensorflow(code.jax, code.jnp)
    return code.add_contrastive_loss(code.jnp.concatenate([a, b]), temperature=0.5)[0]


def _supcon(code, features, labels):
    features = code.F.normalize(features, dim=-1)
    return code.SupConLoss(temperature=0.1, base_temperature=0.07)(features, labels)


def _our_supcon(features, labels):
    count, views, width = features.shape
    rows = features.transpose(1, 0, 2).reshape(count * views, width)
    return lossfns.supcon(rows, jnp.tile(labels, views), temperature=0.1, base_temperature=0.07).mean()


def _clip(code, a, b):
    return code.ClipLoss()(code.F.normalize(a, dim=-1), code.F.normalize(b, dim=-1), 1 / 0.07)


def _siglip(code, a, b):
    a, b = (x / code.jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    code.model = module(apply=lambda *args, **kwargs: (a, b, {"t": 10.0, "b": -10.0}))
    code.images = code.labels = code.rng_model = None
    return code.loss_fn(None)


def _moco(code, queries, keys, queue):
    queries, keys, queue = (code.F.normalize(x, dim=1) for x in (queries, keys, queue))
    logits = code.forward(q=queries, k=keys, self=module(queue=queue.T, T=0.07))
    return code.F.cross_entropy(logits, code.torch.zeros(len(logits), dtype=int), reduction="none")


def _moco_v3(code, queries_a, queries_b, keys_a, keys_b):
    self = module(
        T=0.2,
        predictor=identity,
        base_encoder=lambda views: views[0],
        momentum_encoder=lambda views: views[1],
        _update_momentum_encoder=lambda m: None,
        contrastive_loss=lambda q, k: code.contrastive_loss(self, q, k),
    )
    return code.forward(self, (queries_a, keys_a), (queries_b, keys_b), 0.99)


def _debiased(code, a, b):
    code.batch_size = len(a)
    a, b = code.F.normalize(a, dim=-1), code.F.normalize(b, dim=-1)
    return code.train(out_1=a, out_2=b, temperature=0.5, debiased=True, tau_plus=0.1)


def _hard_negative(code, a, b):
    code.temperature, code.device = 0.5, "cpu"
    a, b = code.F.normalize(a, dim=-1), code.F.normalize(b, dim=-1)
    return code.criterion(a, b, 0.1, len(a), 1.0, "hard")


def _decoupled(code, a, b, **options):
    a, b = code.F.normalize(a, dim=-1), code.F.normalize(b, dim=-1)
    loss = (code.DCLW if options else code.DCL)(temperature=0.1, **options)
    return (loss(a, b) + loss(b, a)) / 2


def _proxy_anchor(code, embeddings, proxies, labels):
    code.binarize = lambda T, nb_classes: code.F.one_hot(T, nb_classes)
    self = module(proxies=proxies, nb_classes=len(proxies), mrg=0.1, alpha=32)
    return code.forward(self, embeddings, labels)


def _multi_similarity(code, embeddings, labels):
    self = module(thresh=0.5, margin=0.1, scale_pos=2.0, scale_neg=40.0)
    return code.forward(self, code.F.normalize(embeddings), labels)


def _barlow_twins(code, a, b):
    self = module(
        projector=identity,
        backbone=identity,
        bn=code.nn.BatchNorm1d(a.shape[1], affine=False),
        args=module(batch_size=len(a), lambd=0.0051),
    )
    return code.forward(self, a, b)


def _vicreg(code, a, b):
    args = module(batch_size=len(a), sim_coeff=25.0, std_coeff=25.0, cov_coeff=1.0)
    return code.forward(module(projector=identity, backbone=identity, args=args, num_features=a.shape[1]), a, b)


def _dino_loss(code, outputs, crops):
    return code.DINOLoss(outputs, crops, 0.04, 0.07, 10, 20)


def _dino(code, student, teacher, center):
    criterion = _dino_loss(code, student.shape[-1], len(student))
    criterion.center = center[None]
    return criterion(student.flatten(0, 1), teacher.flatten(0, 1), 0)


def _our_dino(student, teacher, center):
    """The mean over pairs of a teacher's view and another view of the student."""
    pairs = [(t, s) for t in range(len(teacher)) for s in range(len(student)) if s != t]
    return jnp.mean(jnp.stack([lossfns.dino(student[s], teacher[t], center=center).mean() for t, s in pairs]))


def _dino_center(code, center, teacher):
    criterion = _dino_loss(code, center.shape[-1], 2)
    criterion.center = center[None]
    criterion.update_center(teacher)
    return criterion.center[0]


def _ibot(code, student, teacher, center, masked):
    """The patch term alone."""
    criterion = code.iBOTLoss(2, student.shape[-1], 1, 1, 0.04, 0.04, 0.07, 0.07, 0, 1)
    criterion.center2 = center[None, None]
    tokens = code.torch.zeros(2, 2)
    return criterion((tokens, student), (tokens[:1], teacher), None, masked[None], 0)["patch"]


def _koleo(code, x):
    return code.KoLeoLoss()(x)


def _sinkhorn(code, scores):
    code.args = module(epsilon=0.05, world_size=1, sinkhorn_iterations=3)
    return code.distributed_sinkhorn(scores)


def _swav(code, a, b):
    code.args = module(
        epsilon=0.05, world_size=1, sinkhorn_iterations=3, crops_for_assign=[0, 1], nmb_crops=[2], temperature=0.1
    )
    return code.train(output=code.torch.cat([a, b]), bs=len(a), queue=None)


def _msn(code, anchors, targets, prototypes, **options):
    loss = code.init_msn_loss(num_views=1, tau=0.1)
    labels = code.torch.eye(len(prototypes))
    cross_entropy, entropy, *_ = loss(anchors, targets, prototypes, labels, T=0.25, **options)
    return cross_entropy + entropy


def _unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _our_msn(anchors, targets, prototypes, **options):
    scores = [_unit(x) @ _unit(prototypes).T for x in (anchors, targets)]
    return lossfns.msn(*scores, temperature=0.1, target_temperature=0.25 * 0.1, **options).mean()


def _wmse(code, a, b):
    code.conv2d = code.F.conv2d
    whiten = code.Whitening2d(a.shape[1], track_running_stats=False, eps=0.0)
    return code.norm_mse_loss(whiten(a), whiten(b))


def _align(code, a, b):
    return code.align_loss(code.F.normalize(a, dim=-1), code.F.normalize(b, dim=-1))


SIMCLR = Code(
    "google-research/simclr",
    "383d4143fd8cf7879ae10f1046a9baeb753ff438",
    {"tf2/objective.py": ["LARGE_NUM", "add_contrastive_loss"]},
    jax=True,
)
SUPCON = Code("HobbitLong/SupContrast", "66a8fe53880d6a1084b2e4e0db0a019024d6d41a", {"losses.py": ["SupConLoss"]})
OPEN_CLIP = Code(
    "mlfoundations/open_clip", "89fb801f1e6087880e951fc8354b8a2077b79c6d", {"src/open_clip/loss.py": ["ClipLoss"]}
)
SIGLIP = Code(
    "google-research/big_vision",
    "0127fb6b337ee2a27bf4e54dea79cff176527356",
    {"big_vision/trainers/proj/image_text/siglip.py": ["main.update_fn.loss_fn"]},
    jax=True,
)
MOCO = Code(
    "facebookresearch/moco",
    "78b69cafae80bc74cd1a89ac3fb365dc20d157d3",
    {"moco/builder.py": ["MoCo.forward: l_pos .. logits"]},
)
MOCO_V3 = Code(
    "facebookresearch/moco-v3",
    "c349e6e24f40d3fedb22d973f92defa4cedf37a7",
    {"moco/builder.py": ["concat_all_gather", "MoCo.contrastive_loss", "MoCo.forward"]},
)
DEBIASED = Code(
    "chingyaoc/DCL",
    "7d6345f6a2e4e2615e63f39966ad0dad3f54f954",
    {"main.py": ["get_negative_mask", "train: out .. loss"]},
)
HARD_NEGATIVE = Code(
    "joshr17/HCL", "7b4647fac271c78a2a9d619fe3f2929ecfaf33df", {"image/main.py": ["get_negative_mask", "criterion"]}
)
DECOUPLED = Code(
    "raminnakhli/Decoupled-Contrastive-Learning",
    "0b9b76db81c465a6489598553facab7686927b13",
    {"loss/dcl.py": ["SMALL_NUM", "DCL", "DCLW"]},
)
PROXY_ANCHOR = Code(
    "tjddus9597/Proxy-Anchor-CVPR2020",
    "51db57031e38f75c03f69bbdfad1a3233afd9787",
    {"code/losses.py": ["l2_norm", "Proxy_Anchor.forward"]},
)
MULTI_SIMILARITY = Code(
    "msight-tech/research-ms-loss",
    "b68507d4e22d8a6d3d3c0e6c31be708f9dcd20ee",
    {"ret_benchmark/losses/multi_similarity_loss.py": ["MultiSimilarityLoss.forward"]},
)
BARLOW_TWINS = Code(
    "facebookresearch/barlowtwins",
    "8e8d284ca0bc02f88b92328e53f9b901e86b4a3c",
    {"main.py": ["off_diagonal", "BarlowTwins.forward"]},
)
VICREG = Code(
    "facebookresearch/vicreg",
    "4e12602fd495af83efd1631fbe82523e6db092e0",
    {"main_vicreg.py": ["off_diagonal", "FullGatherLayer", "VICReg.forward"]},
)
DINO = Code("facebookresearch/dino", "7c446df5b9f45747937fb0d72314eb9f7b66930a", {"main_dino.py": ["DINOLoss"]})
IBOT = Code("bytedance/ibot", "da316d82636a7a7356835ef224b13d5f3ace0489", {"main_ibot.py": ["iBOTLoss"]})
KOLEO = Code(
    "facebookresearch/dinov2", "b8931f7bf91576930313be2c6d6af376033b35f0", {"dinov2/loss/koleo_loss.py": ["KoLeoLoss"]}
)
SWAV = Code(
    "facebookresearch/swav",
    "06b1b7cbaf6ba2a792300d79c7299db98b93b7f9",
    {"main_swav.py": ["distributed_sinkhorn", "train: loss .. loss"]},
)
MSN = Code(
    "facebookresearch/msn",
    "4388dc1eadbe3042b85d3296d41b9b207656e043",
    {"src/utils.py": ["AllReduce"], "src/losses.py": ["distributed_sinkhorn", "init_msn_loss"]},
)
WMSE = Code(
    "htdt/self-supervised",
    "d9662c8d07dafd194a9045375f4f6aa09f5b03e9",
    {"methods/whitening.py": ["Whitening2d"], "methods/norm_mse.py": ["norm_mse_loss"]},
)
ALIGN = Code(
    "SsnL/align_uniform",
    "e256d476ddbe04873dc15a8f893d4443d1f81671",
    {"align_uniform/__init__.py": ["align_loss", "uniform_loss"]},
)

CALLS = {
    "nt_xent": Call(
        "nt_xent",
        SIMCLR,
        normal((5, 4), (5, 4)),
        _simclr,
        lambda a, b: 2 * lossfns.nt_xent(a, b, temperature=0.5).mean(),  # they add both anchors of a pair
        (0, 1),
    ),
    "supcon of two views": Call("supcon", SUPCON, with_labels(3, (5, 2, 4)), _supcon, _our_supcon),
    "supcon without some positives": Call("supcon", SUPCON, with_labels(4, (6, 1, 4)), _supcon, _our_supcon),
    "clip": Call("clip", OPEN_CLIP, normal((5, 4), (5, 4)), _clip, lambda a, b: lossfns.clip(a, b).mean(), (0, 1)),
    "siglip": Call("siglip", SIGLIP, normal((5, 4), (5, 4)), _siglip, lambda a, b: lossfns.siglip(a, b).mean(), (0, 1)),
    "moco": Call("moco", MOCO, normal((4, 3), (4, 3), (6, 3)), _moco, lossfns.moco),
    "moco_v3": Call("moco_v3", MOCO_V3, normal(*[(4, 3)] * 4), _moco_v3, lambda *x: lossfns.moco_v3(*x).mean(), (0, 1)),
    "debiased_contrastive": Call(
        "debiased_contrastive",
        DEBIASED,
        normal((5, 4), (5, 4)),
        _debiased,
        lambda a, b: lossfns.debiased_contrastive(a, b).mean(),
        (0, 1),
    ),
    "hard_negative_contrastive": Call(
        "hard_negative_contrastive",
        HARD_NEGATIVE,
        normal((5, 4), (5, 4)),
        _hard_negative,
        lambda a, b: lossfns.hard_negative_contrastive(a, b).mean(),
        (0, 1),
    ),
    # Not the authors' code, which is not public, but the one in use.
    "decoupled_contrastive": Call(
        "decoupled_contrastive",
        DECOUPLED,
        normal((5, 4), (5, 4)),
        _decoupled,
        lambda a, b: lossfns.decoupled_contrastive(a, b).mean(),
        (0, 1),
    ),
    "decoupled_contrastive, weighted": Call(
        "decoupled_contrastive",
        DECOUPLED,
        normal((5, 4), (5, 4)),
        functools.partial(_decoupled, sigma=0.5),
        lambda a, b: lossfns.decoupled_contrastive(a, b, sigma=0.5).mean(),
        (0, 1),
    ),
    "proxy_anchor": Call(
        "proxy_anchor",
        PROXY_ANCHOR,
        lambda rng: [*normal((6, 3), (4, 3))(rng), np.array([0, 1, 1, 3, 0, 3])],
        _proxy_anchor,
        lambda *x: lossfns.proxy_anchor(*x).mean(),
        (0, 1),
    ),
    "multi_similarity": Call(
        "multi_similarity",
        MULTI_SIMILARITY,
        lambda rng: [*normal((6, 3))(rng), np.array([0, 1, 1, 2, 0, 2])],
        _multi_similarity,
        lambda x, labels: lossfns.multi_similarity(x, labels, beta=40.0, threshold=0.5).mean(),
    ),
    "alignment": Call(
        "alignment", ALIGN, normal((5, 4), (5, 4)), _align, lambda a, b: lossfns.alignment(a, b).mean(), (0, 1)
    ),
    "uniformity": Call(
        "uniformity",
        ALIGN,
        normal((5, 4)),
        lambda code, x: code.uniform_loss(code.F.normalize(x, dim=-1)),
        lambda x: lossfns.uniformity(x).mean(),
    ),
    "barlow_twins": Call(
        "barlow_twins",
        BARLOW_TWINS,
        normal((6, 3), (6, 3)),
        _barlow_twins,
        lambda a, b: lossfns.barlow_twins(a, b).mean(),
        (0, 1),
    ),
    "vicreg": Call("vicreg", VICREG, normal((6, 3), (6, 3)), _vicreg, lambda a, b: lossfns.vicreg(a, b).mean(), (0, 1)),
    "dino": Call("dino", DINO, normal((4, 3, 5), (2, 3, 5), (5,), scale=0.3), _dino, _our_dino),
    "dino_center": Call("dino_center", DINO, normal((5,), (6, 5)), _dino_center, lossfns.dino_center, ()),
    "ibot": Call(
        "ibot",
        IBOT,
        lambda rng: [*normal((3, 4, 5), (3, 4, 5), (5,), scale=0.3)(rng), rng.random((3, 2, 2)) < 0.6],
        _ibot,
        lambda s, t, c, masked: lossfns.ibot(s, t, masked.reshape(3, 4), center=c).mean(),
    ),
    "koleo": Call("koleo", KOLEO, normal((6, 4)), _koleo, lambda x: lossfns.koleo(x).mean(), tolerance=1e-6),
    "sinkhorn": Call("sinkhorn", SWAV, normal((6, 4), scale=0.3), _sinkhorn, lossfns.sinkhorn, ()),
    "swav": Call(
        "swav", SWAV, normal((6, 4), (6, 4), scale=0.3), _swav, lambda a, b: lossfns.swav(a, b).mean(), (0, 1)
    ),
    "msn": Call("msn", MSN, normal((6, 4), (6, 4), (5, 4)), _msn, _our_msn, (0, 2)),
    "msn of balanced targets": Call(
        "msn",
        MSN,
        normal((6, 4), (6, 4), (5, 4)),
        functools.partial(_msn, use_sinkhorn=True),
        functools.partial(_our_msn, sinkhorn_iterations=3),
        (0, 2),
    ),
    "wmse": Call("wmse", WMSE, normal((7, 3), (7, 3)), _wmse, lambda a, b: lossfns.wmse(a, b).mean(), (0, 1)),
}
