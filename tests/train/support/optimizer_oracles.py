"""Float64 loops of the optimizers as their papers write them, and what the tests of optimizers share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.optimizers import OptimizerConfig, make_optimizer

RATE = 0.1
STEPS = 3
PLAIN = OptimizerConfig(name="sgd", learning_rate=RATE, schedule="constant")


def parameters(shape=(3, 4)):
    """A matrix with decay and a bias without, away from 0."""
    rng = np.random.default_rng(0)
    return {"kernel": rng.uniform(0.5, 1.5, shape), "bias": rng.uniform(-1.5, -0.5, shape[-1])}


def gradients(params, steps=STEPS):
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda p: rng.normal(size=p.shape), params) for _ in range(steps)]


def to_jax(tree, kind=jnp.float32):
    return jax.tree.map(lambda x: jnp.asarray(x, kind), tree)


def cubes(params):
    """The gradient of sum(w^4) / 4. The Hessian is diagonal, 3 w^2, so an estimate with signs is exact."""
    return jax.tree.map(lambda w: w**3, params)


def run_with_states(config, params, grads, total_steps=10, values=None, kind=jnp.float32):
    """The parameters after each compiled update, and the optimizer's state."""
    optimizer = make_optimizer(config, total_steps, params)
    params = to_jax(params, kind)
    state = optimizer.init(params)
    update = jax.jit(lambda g, state, params, value: optimizer.update(g, state, params, value=value, grad_fn=cubes))
    history = []
    for grad, value in zip(grads, values or [0.0] * len(grads), strict=True):
        updates, state = update(to_jax(grad, kind), state, params, value)
        params = optax.apply_updates(params, updates)
        history.append((params, state))
    return history


def run(*args, **kwargs):
    """The parameters after each compiled update."""
    return [params for params, _ in run_with_states(*args, **kwargs)]


def assert_close(ours, expected, rtol=3e-6, atol=3e-7):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, expected)


# Float64 oracles, each for one array: the papers' update rules. `decay` is the decoupled weight decay of this array.


def sgd(w, grads, decay):
    for g in grads:
        w = w - RATE * (g + decay * w)
        yield w


def momentum(w, grads, decay, mu=0.9):
    m = np.zeros_like(w)
    for g in grads:
        m = mu * m + g
        w = w - RATE * (m + decay * w)
        yield w


def nesterov(w, grads, decay, mu=0.9):
    m = np.zeros_like(w)
    for g in grads:
        m = mu * m + g
        w = w - RATE * (g + mu * m + decay * w)
        yield w


def adam_directions(grads, b1=0.9, b2=0.999, eps=1e-8):
    m, v = np.zeros_like(grads[0]), np.zeros_like(grads[0])
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        yield (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


def adamw(w, grads, decay, **betas):
    for u in adam_directions(grads, **betas):
        w = w - RATE * (u + decay * w)
        yield w


def lion(w, grads, decay, b1=0.9, b2=0.99):
    m = np.zeros_like(w)
    for g in grads:
        w = w - RATE * (np.sign(b1 * m + (1 - b1) * g) + decay * w)
        m = b2 * m + (1 - b2) * g
        yield w


def lamb(w, grads, decay):
    for u in adam_directions(grads, eps=1e-6):
        u = u + decay * w
        ratio = np.linalg.norm(w) / np.linalg.norm(u) if w.ndim == 2 else 1.0
        w = w - RATE * ratio * u
        yield w


def rms(x):
    return np.sqrt(np.mean(x**2))


def adafactor(w, grads, decay):
    row = np.zeros(w.shape[0])
    column, v = np.zeros(w.shape[-1]), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        b2, squared = 1 - t**-0.8, g**2 + 1e-30
        if w.ndim == 2:
            row = b2 * row + (1 - b2) * squared.sum(1)
            column = b2 * column + (1 - b2) * squared.sum(0)
            u = g / np.sqrt(np.outer(row, column) / row.sum())
        else:
            v = b2 * v + (1 - b2) * squared
            u = g / np.sqrt(v)
        u = u / max(1.0, rms(u))
        w = w - RATE * (max(1e-3, rms(w)) * u + decay * w)
        yield w


def newton_schulz(g):
    x = g / np.linalg.norm(g)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def muon(w, grads, decay, beta=0.95):
    if w.ndim != 2:
        yield from adamw(w, grads, 0.0)
        return
    m = np.zeros_like(w)
    for g in grads:
        m = beta * m + g
        ahead = g + beta * m
        wide = ahead if w.shape[0] <= w.shape[1] else ahead.T
        u = newton_schulz(wide)
        u = u if w.shape[0] <= w.shape[1] else u.T
        w = w - RATE * (0.2 * np.sqrt(max(w.shape)) * u + decay * w)
        yield w


def rmsprop(w, grads, decay, b2=0.9, eps=1e-8, mu=0.0):
    v, m = np.zeros_like(w), np.zeros_like(w)
    for g in grads:
        v = b2 * v + (1 - b2) * g**2
        m = mu * m + g / (np.sqrt(v) + eps)
        w = w - RATE * (m + decay * w)
        yield w


def adagrad(w, grads, decay, eps=1e-10):
    s = np.zeros_like(w)
    for g in grads:
        s = s + g**2
        w = w - RATE * (g / (np.sqrt(s) + eps) + decay * w)
        yield w


def adadelta(w, grads, decay, b2=0.9, eps=1e-6):
    v, x = np.zeros_like(w), np.zeros_like(w)
    for g in grads:
        v = b2 * v + (1 - b2) * g**2
        u = np.sqrt(x + eps) / np.sqrt(v + eps) * g
        x = b2 * x + (1 - b2) * u**2
        w = w - RATE * (u + decay * w)
        yield w


def nadamw(w, grads, decay, b1=0.9, b2=0.999, eps=1e-8):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        w = w - RATE * (ahead / (np.sqrt(v / (1 - b2**t)) + eps) + decay * w)
        yield w


def radam(w, grads, decay, b1=0.9, b2=0.999, eps=1e-8):
    m, v, longest = np.zeros_like(w), np.zeros_like(w), 2 / (1 - b2) - 1
    for t, g in enumerate(grads, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        length = longest - 2 * t * b2**t / (1 - b2**t)
        u = m / (1 - b1**t)
        if length >= 5:
            top = (length - 4) * (length - 2) * longest
            u = u * np.sqrt(top / ((longest - 4) * (longest - 2) * length)) / (np.sqrt(v / (1 - b2**t)) + eps)
        w = w - RATE * (u + decay * w)
        yield w


def amsgrad(w, grads, decay, b1=0.9, b2=0.999, eps=1e-8):
    m, v, largest = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        largest = np.maximum(largest, v)
        w = w - RATE * (m / (1 - b1**t) / (np.sqrt(largest / (1 - b2**t)) + eps) + decay * w)
        yield w


def adamax(w, grads, decay, b1=0.9, b2=0.999, eps=1e-8):
    m, n = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m, n = b1 * m + (1 - b1) * g, np.maximum(b2 * n, np.abs(g) + eps)
        w = w - RATE * (m / (1 - b1**t) / n + decay * w)
        yield w


def adabelief(w, grads, decay, b1=0.9, b2=0.999, eps=1e-16):
    m, s = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps
        w = w - RATE * (m / (1 - b1**t) / (np.sqrt(s / (1 - b2**t)) + eps) + decay * w)
        yield w


def adan(w, grads, decay, b1=0.98, b2=0.92, b3=0.99, eps=1e-8):
    m, d, n, before = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w), grads[0]
    for t, g in enumerate(grads, start=1):
        m, d = b1 * m + (1 - b1) * g, b2 * d + (1 - b2) * (g - before)
        n = b3 * n + (1 - b3) * (g + b2 * (g - before)) ** 2
        u = (m / (1 - b1**t) + b2 * d / (1 - b2**t)) / (np.sqrt(n / (1 - b3**t)) + eps)
        w, before = w - RATE * (u + decay * w), g
        yield w


def adopt(w, grads, decay, b1=0.9, b2=0.9999, eps=1e-6):
    m, v = np.zeros_like(w), grads[0] ** 2  # The first gradient only starts the average of squares.
    yield w - RATE * decay * w
    w = w - RATE * decay * w
    for t, g in enumerate(grads[1:], start=1):
        m = b1 * m + (1 - b1) * np.clip(g / np.maximum(np.sqrt(v), eps), -(t**0.25), t**0.25)
        v = b2 * v + (1 - b2) * g**2
        w = w - RATE * (m + decay * w)
        yield w


def sophia(w, grads, decay, b1=0.965, b2=0.99, eps=1e-12, gamma=0.01, every=10):
    m, h = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        h = b2 * h + (1 - b2) * 3 * w**2 if (t - 1) % every == 0 else h  # The Hessian of `cubes`.
        u = np.clip(m / np.maximum(gamma * h, eps), -1, 1)
        w = w - RATE * (u + decay * w)
        yield w


def schedule_free(directions):
    """Gradients at y; x is the average of z, all steps of one rate."""

    def loop(w, grads, decay, b1=0.9, averages=False, **kwargs):
        x, y, z = w, w, w
        for t, u in enumerate(directions(grads, **kwargs), start=1):
            z = z - RATE * (u + decay * y)
            x = (1 - 1 / t) * x + z / t
            y = (1 - b1) * z + b1 * x
            yield x if averages else y

    return loop


def step_scale(t, b1, b2, corrected):
    return np.sqrt(1 - b2**t) / (1 - b1**t) if corrected else 1.0


def prodigy(w, grads, decay, b1=0.9, b2=0.999, eps=1e-8, rate=RATE, d=1e-6, corrected=False):
    start, r, root = w, 0.0, np.sqrt(b2)
    m, v, s = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        gamma = rate * step_scale(t, b1, b2, corrected)
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * (d * g) ** 2
        r = root * r + (1 - root) * gamma * d**2 * np.sum(g * (start - w))
        s = root * s + (1 - root) * gamma * d**2 * g
        found = max(d, r / np.abs(s).sum())
        w = w - gamma * d * (m / (np.sqrt(v) + found * eps) + decay * w)
        d = found
        yield w


def dadapt_adamw(w, grads, decay, b1=0.9, b2=0.999, eps=1e-8, rate=RATE, d=1e-6, corrected=False):
    r, root = 0.0, np.sqrt(b2)
    m, v, s = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        gamma = rate * step_scale(t, b1, b2, corrected)
        r = root * r + (1 - root) * gamma * d * np.sum(g * s / (np.sqrt(v) + eps))
        m, v = b1 * m + (1 - b1) * d * gamma * g, b2 * v + (1 - b2) * g**2
        s = root * s + (1 - root) * d * gamma * g
        w = w - m / (np.sqrt(v) + eps) - gamma * d * decay * w
        d = max(d, r / ((1 - root) * np.abs(s).sum()))
        yield w


ORACLES = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "adam": adamw,
    "adamw": adamw,
    "lion": lion,
    "lamb": lamb,
    "adafactor": adafactor,
    "muon": muon,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "nadamw": nadamw,
    "radam": radam,
    "amsgrad": amsgrad,
    "adamax": adamax,
    "adabelief": adabelief,
    "adan": adan,
    "adopt": adopt,
    "sophia": sophia,
    "schedule_free_sgd": schedule_free(lambda grads: grads),
    "schedule_free_adamw": schedule_free(lambda grads, b2=0.999, eps=1e-8: adam_directions(grads, 0.0, b2, eps)),
}
# Those that look at all parameters together.
WHOLE = {"prodigy": prodigy, "dadapt_adamw": dadapt_adamw}


def expected(name, params, grads, decay, **kwargs):
    """The parameters after each update; matrices decay."""
    if name in WHOLE:
        return expected_together(name, params, grads, decay, **kwargs)
    per_leaf = {
        key: list(ORACLES[name](w, [g[key] for g in grads], decay if w.ndim == 2 else 0.0, **kwargs))
        for key, w in params.items()
    }
    return [{key: per_leaf[key][step] for key in params} for step in range(len(grads))]


def expected_together(name, params, grads, decay, **kwargs):
    def flat(tree):
        return np.concatenate([np.ravel(tree[key]) for key in params])

    decays = flat({key: np.full(w.shape, decay if w.ndim == 2 else 0.0) for key, w in params.items()})
    ends = np.cumsum([w.size for w in params.values()])[:-1]
    history = WHOLE[name](flat(params), [flat(g) for g in grads], decays, **kwargs)
    return [
        {key: part.reshape(w.shape) for part, (key, w) in zip(np.split(all_of_it, ends), params.items(), strict=True)}
        for all_of_it in history
    ]
