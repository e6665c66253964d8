"""A learning rate for each run: one compiled step of `fit_model` serves all rates of a search.

The rate is one of the parameters, `{"net": parameters, "rate": number}`, which gets no gradient and stays.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

from train.optimizers import OptimizerConfig, make_optimizer


def with_rate(net: Any, rate: float) -> dict[str, Any]:
    """Parameters of a run with its learning rate.

    >>> with_rate({"w": 2.0}, 0.5)
    {'net': {'w': 2.0}, 'rate': Array(0.5, dtype=float32)}
    """
    return {"net": net, "rate": jnp.asarray(rate, jnp.float32)}


def by_rate(config: OptimizerConfig, steps: int) -> optax.GradientTransformationExtraArgs:
    """The config's optimizer of the parameters `net`; the parameter `rate` multiplies its learning rate."""

    def init(params: Any) -> Any:
        return make_optimizer(config, steps).init(params["net"])

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        chain = make_optimizer(config, steps, rate_factor=params["rate"])
        net, state = chain.update(updates["net"], state, params["net"], **more)
        return {"net": net, "rate": jnp.zeros_like(params["rate"])}, state

    return optax.GradientTransformationExtraArgs(init, update)
