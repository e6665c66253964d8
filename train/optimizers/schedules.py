"""Schedules of numbers by step, composed of Optax's."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from train.errors import UsageError, check_name

ScheduleName = Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
Rate = float | jax.Array | Callable[[Any], Any]
"""A number, or a schedule of the step."""


def count_steps(length: float, total_steps: int, name: str = "length") -> int:
    """Converts a length to steps: below 1 it is a fraction of the run, from 1 on a number of steps.

    Args:
        length: At least 0; whole if it is 1 or more.
        total_steps: Steps of the run.
        name: Name of the length, for the message.

    Returns:
        The number of steps; a fraction is rounded to the nearest.

    >>> count_steps(0.1, 2000), count_steps(100, 2000), count_steps(0, 2000)
    (200, 100, 0)
    """
    check_length(length, name)
    steps = round(length * total_steps) if length < 1 else int(length)
    if steps > total_steps:
        raise UsageError(
            f"{name}={length:g} is longer than the run of {total_steps} steps: shorten it or train longer."
        )
    return steps


def check_length(length: float, name: str) -> None:
    """Checks a length as far as possible without the length of the run.

    >>> check_length(1.5, "warmup")
    Traceback (most recent call last):
    train.errors.UsageError: warmup must be a fraction of the run below 1 or a whole number of steps, not 1.5.
    """
    if not (math.isfinite(length) and length >= 0 and (length < 1 or length == int(length))):
        raise UsageError(f"{name} must be a fraction of the run below 1 or a whole number of steps, not {length!r}.")


def build_schedule(
    name: str,
    *,
    peak: float,
    total_steps: int,
    warmup: float = 0,
    cooldown: float = 0.2,
    final_fraction: float = 0.0,
) -> optax.Schedule:
    """A linear warm-up from 0 to the peak, then one of five schedules.

    With T the steps of the run, W the steps of the warm-up, s = (t - W) / (T - W) and f the final fraction:

        t < W          peak * t / W
        constant       peak
        linear         peak * (1 - (1 - f) * s)
        cosine         peak * (f + (1 - f) * (1 + cos(pi s)) / 2)
        wsd            peak until T - C, then linear to peak * f at T        (C: cooldown)
        inverse_sqrt   peak * sqrt(W / t), with W = 1 and t + 1 if there is no warm-up

    Args:
        name: One of `SCHEDULES`.
        peak: Value at the end of the warm-up.
        total_steps: Steps of the run, at least 1.
        warmup: Length of the warm-up: a fraction of the run if below 1, otherwise a number of steps.
        cooldown: Length of the final decay of `wsd`, given in the same way.
        final_fraction: Value at step `total_steps` as a fraction of the peak, for linear, cosine and wsd.

    Returns:
        The schedule: step count -> value. It stays at its final value after `total_steps` (`inverse_sqrt` keeps
        falling).

    Conventions:
        The first step (count 0) of a warm-up has rate 0 and the last step of a run stops one step short of the final
        value, as in Optax, PyTorch and the code of BERT.

    References:
        Vaswani et al. 2017, arXiv:1706.03762 (inverse square root); Loshchilov and Hutter 2017, arXiv:1608.03983
        (cosine); Hu et al. 2024, arXiv:2404.06395 (WSD).

    >>> schedule = build_schedule("linear", peak=1.0, total_steps=10, warmup=2)
    >>> [round(learning_rate_at(schedule, step), 3) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    check_name("schedule", name, SCHEDULES)
    if total_steps < 1:
        raise UsageError(f"a run needs at least one step, not {total_steps}.")
    warmup_steps = count_steps(warmup, total_steps, "warmup")
    rest = total_steps - warmup_steps
    if name == "constant" or rest == 0:
        body = optax.constant_schedule(peak)
    elif name == "linear":
        body = optax.linear_schedule(peak, peak * final_fraction, rest)
    elif name == "cosine":
        body = optax.cosine_decay_schedule(peak, rest, alpha=final_fraction)
    elif name == "wsd":
        cooldown_steps = count_steps(cooldown, total_steps, "cooldown")
        if cooldown_steps > rest:
            raise UsageError(
                f"warmup ({warmup_steps} steps) and cooldown ({cooldown_steps} steps) together are longer than the run "
                f"of {total_steps} steps: shorten one of them."
            )
        body = optax.linear_schedule(peak, peak * final_fraction, cooldown_steps, rest - cooldown_steps)
    else:
        body = _inverse_sqrt(peak, max(warmup_steps, 1))
    if warmup_steps == 0:
        return body
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), body], [warmup_steps])


def _inverse_sqrt(peak: float, timescale: int) -> optax.Schedule:
    """`peak * sqrt(timescale / (t + timescale))`, t counted from the end of the warm-up."""
    # Negative steps belong to the warm-up. join_schedules discards these values, but they must not be NaN.
    return lambda count: peak * jnp.sqrt(timescale / (jnp.maximum(count, 0) + timescale))


def ema_decay_schedule(decay: float, warmup: float = 10.0) -> optax.Schedule:
    """Decay of an exponential moving average of the parameters that forgets its start quickly.

    `min(decay, (1 + t) / (warmup + t))` at step t, so that the average of the first steps is not dominated by the
    initial parameters.

    Args:
        decay: Final decay in [0, 1), such as 0.999.
        warmup: Larger values keep the memory short for longer; 1 or less turns the warm-up off.

    Returns:
        The schedule, for `build_train_step(..., ema_decay=...)`.

    References:
        Polyak and Juditsky 1992; the formula of `tf.train.ExponentialMovingAverage` with `num_updates`.

    >>> schedule = ema_decay_schedule(0.5)
    >>> [round(float(schedule(step)), 4) for step in (0, 2, 8, 100)]
    [0.1, 0.25, 0.5, 0.5]
    """
    if not 0 <= decay < 1:
        raise UsageError(f"the decay of the parameters' average must be in [0, 1), not {decay!r}.")
    if not 0 <= warmup < math.inf:
        raise UsageError(f"the warm-up of the parameters' average must be a finite number from 0 up, not {warmup!r}.")
    if warmup <= 1:
        return optax.constant_schedule(decay)
    return lambda count: jnp.minimum(decay, (1 + count) / (warmup + count))


def rate_at(rate: Rate | None, step: jax.Array) -> Any:
    """A number, or a schedule's number at a step."""
    return rate(step) if callable(rate) else rate


def learning_rate_at(schedule: float | optax.Schedule, step: int) -> float:
    """The learning rate of one step as a Python number, for logs and plots.

    Args:
        schedule: A schedule or a constant.
        step: Number of updates made before this one.

    >>> learning_rate_at(optax.linear_schedule(1.0, 0.0, 4), 1), learning_rate_at(0.5, 1)
    (0.75, 0.5)
    """
    return float(schedule(step)) if callable(schedule) else float(schedule)
