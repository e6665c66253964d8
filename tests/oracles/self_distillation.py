"""Oracles of the losses between views."""

import itertools
import math

import numpy as np

from tests.oracles.common import cosine, log_sum_exp


def rows_of(values, predictions):
    """One value for each row of [..., D]."""
    shape = predictions.shape[:-1]
    return np.array([values(index) for index in np.ndindex(shape)]).reshape(shape)


def byol(predictions, targets):
    return rows_of(lambda i: 2 - 2 * cosine(predictions[i], targets[i]), predictions)


def simsiam(predictions, targets):
    return rows_of(lambda i: -cosine(predictions[i], targets[i]), predictions)


def data2vec(predictions, targets, *, beta=2.0):
    """Baevski 2022, equation 3, averaged over features."""

    def smooth(e):
        return e * e / 2 / beta if abs(e) <= beta else abs(e) - beta / 2

    return rows_of(lambda i: np.mean([smooth(e) for e in predictions[i] - targets[i]]), predictions)


def moments(view):
    """Mean of each feature, and its deviations."""
    count = max(len(view), 1)
    mean = [math.fsum(column) / count for column in view.T]
    return [[x - m for x, m in zip(row, mean, strict=True)] for row in view]


def barlow_twins(view_a, view_b, *, redundancy_weight=0.0051, eps=1e-5):
    """Zbontar 2021, equations 1 and 2, with the batch normalisation of their code: biased variance, eps in the root."""
    pairs, features = view_a.shape
    if pairs == 0:
        return np.zeros(0)
    a, b = moments(view_a), moments(view_b)

    def deviation(x, i):
        return math.sqrt(math.fsum(row[i] ** 2 for row in x) / pairs + eps)

    value = 0.0
    for i in range(features):
        for j in range(features):
            scale = deviation(a, i) * deviation(b, j)
            product = math.fsum(x[i] * y[j] for x, y in zip(a, b, strict=True)) / pairs
            c = product / scale if scale else 0.0
            value += (1 - c) ** 2 if i == j else redundancy_weight * c * c
    return np.full(pairs, value)


def covariance(view, i, j):
    """Unbiased; 0 for one row."""
    x = moments(view)
    return math.fsum(row[i] * row[j] for row in x) / max(len(view) - 1, 1)


def vicreg(
    view_a,
    view_b,
    *,
    invariance_weight=25.0,
    variance_weight=25.0,
    covariance_weight=1.0,
    target_deviation=1.0,
    eps=1e-4,
):
    """The authors' loss: mean over features, the hinge halved, off-diagonal covariances over features."""
    features = view_a.shape[1]
    variance = spread = 0.0
    for view in (view_a, view_b):
        for i in range(features):
            variance += max(0.0, target_deviation - math.sqrt(covariance(view, i, i) + eps)) / features / 2
            spread += math.fsum(covariance(view, i, j) ** 2 for j in range(features) if j != i) / features
    of_batch = variance_weight * variance + covariance_weight * spread
    distances = [math.fsum((x - y) ** 2) / features for x, y in zip(view_a, view_b, strict=True)]
    return np.array([invariance_weight * d + of_batch for d in distances])


def whitened(view, eps):
    """Inverse of the lower Cholesky factor, by elimination; None if a pivot is lost."""
    pairs, features = view.shape
    sigma = [[(1 - eps) * covariance(view, i, j) + eps * (i == j) for j in range(features)] for i in range(features)]
    lower = np.zeros((features, features))
    for i in range(features):
        for j in range(i + 1):
            rest = sigma[i][j] - math.fsum(lower[i, k] * lower[j, k] for k in range(j))
            if i == j and rest <= 1e-12 * sigma[i][i]:
                return None
            lower[i, j] = math.sqrt(rest) if i == j else rest / lower[j, j]
    white = np.zeros((pairs, features))
    for n, x in enumerate(moments(view)):
        for i in range(features):
            white[n, i] = (x[i] - math.fsum(lower[i, k] * white[n, k] for k in range(i))) / lower[i, i]
    return white


def wmse(view_a, view_b, *, eps=0.0, normalize=True):
    """Ermolov 2021: whiten each view by its Cholesky factor, then compare."""
    a, b = whitened(view_a, eps), whitened(view_b, eps)
    if a is None or b is None:
        return np.full(len(view_a), np.nan)
    if normalize:
        return np.array([2 - 2 * cosine(x, y) for x, y in zip(a, b, strict=True)])
    return np.array([np.mean((x - y) ** 2) for x, y in zip(a, b, strict=True)])


def log_softmax(row):
    return [x - log_sum_exp(row) for x in row]


def cross_entropy_with(student, teacher):
    """-sum q log p of two rows of logits, 0 log 0 = 0."""
    p, q = log_softmax(student), [math.exp(x) for x in log_softmax(teacher)]
    return -math.fsum(w * x for w, x in zip(q, p, strict=True) if w)


def dino(
    student_logits, teacher_logits, *, center=None, student_temperature=0.1, teacher_temperature=0.04, block_size=None
):
    """Caron 2021, algorithm 1: centre, sharpen, cross-entropy."""
    center = np.zeros(student_logits.shape[-1]) if center is None else np.asarray(center, np.float64)

    def value(i):
        student = [x / student_temperature for x in student_logits[i]]
        teacher = [(x - c) / teacher_temperature for x, c in zip(teacher_logits[i], center, strict=True)]
        return cross_entropy_with(student, teacher)

    return rows_of(value, student_logits)


def dino_center(center, teacher_logits, *, momentum=0.9):
    rows = teacher_logits.reshape(-1, teacher_logits.shape[-1])
    if len(rows) == 0:
        return center
    return [momentum * c + (1 - momentum) * math.fsum(x) / len(rows) for c, x in zip(center, rows.T, strict=True)]


def ibot(student_logits, teacher_logits, masked, *, teacher_temperature=0.07, **kwargs):
    """Zhou 2022, equation 3: a mean over the masked patches of each image."""
    values = []
    for student, teacher, mask in zip(student_logits, teacher_logits, masked, strict=True):
        costs = dino(student[mask], teacher[mask], teacher_temperature=teacher_temperature, **kwargs)
        values.append(costs.mean() if len(costs) else 0.0)
    return np.array(values)


def sinkhorn(scores, *, epsilon=0.05, iterations=3):
    """Caron 2020, equation 5: the exponential of the scores, made even; without rounds the softmax."""
    log_q = [[s / epsilon for s in row] for row in scores]
    return _even(log_q if iterations else [log_softmax(row) for row in log_q], iterations, scores.shape)


def _even(log_q, iterations, shape):
    """Cuturi 2013 in logarithms: prototypes to equal sums, then rows to sum one."""
    for _ in range(iterations):
        columns = [log_sum_exp([row[k] for row in log_q]) for k in range(shape[1])]
        log_q = [log_softmax([x - c for x, c in zip(row, columns, strict=True)]) for row in log_q]
    return np.exp(np.array(log_q).reshape(shape))


def swav(scores_a, scores_b, *, temperature=0.1, epsilon=0.05, iterations=3):
    codes_a, codes_b = (sinkhorn(x, epsilon=epsilon, iterations=iterations) for x in (scores_a, scores_b))

    def direction(scores, codes):
        log_p = [log_softmax([s / temperature for s in row]) for row in scores]
        return [-math.fsum(q * x for q, x in zip(*rows, strict=True) if q) for rows in zip(codes, log_p, strict=True)]

    return (np.array(direction(scores_a, codes_b)) + np.array(direction(scores_b, codes_a))) / 2


def msn(
    scores,
    target_scores,
    *,
    temperature=0.1,
    target_temperature=0.025,
    entropy_weight=1.0,
    sinkhorn_iterations=0,
):
    """Assran 2022, equation 1, with the constant of the authors' code."""
    count, prototypes = scores.shape
    if count == 0:
        return np.zeros(0)
    log_targets = [log_softmax([s / target_temperature for s in row]) for row in target_scores]
    targets = _even(log_targets, sinkhorn_iterations, target_scores.shape)
    log_p = [log_softmax([s / temperature for s in row]) for row in scores]
    mean = [math.fsum(math.exp(row[k]) for row in log_p) / count for k in range(prototypes)]
    entropy = -math.fsum(m * math.log(m) for m in mean if m)
    costs = [-math.fsum(t * x for t, x in zip(*rows, strict=True) if t) for rows in zip(targets, log_p, strict=True)]
    return np.array(costs) + entropy_weight * (math.log(prototypes) - entropy)


def koleo(embeddings, *, eps=1e-8):
    """Sablayrolles 2019, equation 2: all pairs."""
    norms = [math.sqrt(x @ x) or 1.0 for x in embeddings]
    units = [x / n for x, n in zip(embeddings, norms, strict=True)]
    values = np.zeros(len(units))
    for n, u in enumerate(units):
        distances = [math.sqrt(math.fsum((u - v) ** 2)) for m, v in enumerate(units) if m != n]
        if distances:
            nearest = min(distances) + eps
            values[n] = -math.log(nearest) if nearest else math.inf
    return values


def sigreg(embeddings, directions, *, knots=17, largest_frequency=3.0):
    """Epps and Pulley's integral over the whole line by trapezoids, slice by slice."""
    count = len(embeddings)
    t = np.linspace(-largest_frequency, largest_frequency, 2 * knots - 1)
    values = []
    for direction in directions.T:
        projections = embeddings @ direction / math.sqrt(direction @ direction)
        heights = []
        for frequency in t:
            found = sum(complex(math.cos(frequency * x), math.sin(frequency * x)) for x in projections) / max(count, 1)
            window = math.exp(-frequency * frequency / 2)
            heights.append(abs(found - window) ** 2 * window)
        values.append(count * sum((a + b) / 2 for a, b in itertools.pairwise(heights)) * (t[1] - t[0]))
    return np.full(count, np.mean(values))
