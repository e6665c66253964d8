"""Cases of `lossfns.contrastive.proxies`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from tests.cases._shared import zeros
from tests.cases.contrastive._shared import examples, unit, with_classes
from tests.oracles.contrastive import proxies as oracles


def naive_proxy_nca(embeddings, proxies, labels):
    d = jnp.square(unit(embeddings)[:, None] - unit(proxies)[None]).sum(-1)
    at_label = jnp.arange(len(proxies))[None] == labels[:, None]
    return jnp.where(at_label, d, 0).sum(-1) + jnp.log(jnp.where(at_label, 0, jnp.exp(-d)).sum(-1))


PROXY_NCA = with_classes(
    lossfns.proxy_nca,
    oracles.proxy_nca,
    naive_proxy_nca,
    variants=({}, {"temperature": 1 / 9, "include_positive": True, "block_size": 2}),
    sweep={"temperature": (0.1, 0.2, 0.5)},
    condition=lambda kwargs: 2 / kwargs.get("temperature", 1.0),  # which divides twice a cosine
    modes=("rev",),
    hostile=lambda rng: {"temperature 0.01": (examples(rng, 6), {"temperature": 0.01})},
    wrong={"temperature": 0, "include_positive": 1, "block_size": 0},
)


def naive_proxy_anchor(embeddings, proxies, labels):
    s = unit(embeddings) @ unit(proxies).T
    at_label = jnp.arange(len(proxies))[None] == labels[:, None]
    pull = jnp.log(1 + jnp.where(at_label, jnp.exp(-32 * (s - 0.1)), 0).sum(0))
    push = jnp.log(1 + jnp.where(at_label, 0, jnp.exp(32 * (s + 0.1))).sum(0))
    value = jnp.where(at_label.any(0), pull, 0).sum() / at_label.any(0).sum() + push.mean()
    return jnp.full(len(labels), value)


PROXY_ANCHOR = with_classes(
    lossfns.proxy_anchor,
    oracles.proxy_anchor,
    naive_proxy_anchor,
    variants=({}, {"scale": 8.0, "margin": 0.0}),
    sweep={"scale": (8.0, 16.0, 32.0), "margin": (0.1, 0.2, 0.3)},
    condition=lambda kwargs: kwargs.get("scale", 32.0),
    batch_coupled=True,
    modes=("rev",),
    non_negative=True,
    hostile=lambda rng: {
        "one class": ((examples(rng, 6)[0], zeros(6, dtype=np.int32)), {}),
        "a label that does not exist": ((examples(rng, 6)[0], np.array([0, 1, 5, 2, 3, 0], np.int32)), {}),
    },
    wrong={"scale": 0},
)


CASES = {
    "proxy_anchor": PROXY_ANCHOR,
    "proxy_nca": PROXY_NCA,
}
