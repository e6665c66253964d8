"""Learn to see glyphs without labels by NT-Xent, and probe what was learnt on characters and typefaces never seen.

What is studied: contrastive learning (Chen et al. 2020, arXiv:2002.05709) where the two views of a thing are not two
augmentations but two typefaces of one character, drawn by people (and shifted, scaled and blurred with noise besides).
The frozen encoder is probed linearly: which of 208 characters that were not in the pretraining is this? Labels come
from the typefaces of the pretraining, the test is on four others. Baselines are the same probe on a random encoder, on
an encoder trained by cross-entropy on the pretraining characters, and on the pixels themselves. A pair of faces tells
which two images are one character, so the supervised encoder has the same knowledge; what differs is the loss.

    python -m experiments.simclr
    python -m experiments.simclr --data.name=digits    # augmented views of handwritten digits, other writers held out

NT-Xent couples the examples of a batch: its negatives are the others, so accumulating over micro-batches would change
the loss. To save memory, `--encoder-chunks` runs the encoder alone in micro-batches (`train.microbatched`), which is
exact.

Expected on glyphs with 1, 3 and 9 labels a character: 0.770 ± 0.006, 0.890 ± 0.009 and 0.958 ± 0.001 (3 seeds), equal
to the supervised encoder within the spread and far above a random encoder (0.430, 0.642, 0.855) and pixels (0.506,
0.756, 0.934). 9 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import cli
from experiments.data.images import Images, pair_batches, read_images
from experiments.models.vision import AugmentConfig, ConvEncoder, EncoderConfig, ImageClassifier, Projector, augment
from experiments.probe import probe
from experiments.runs import Result, gather_metrics, product, run_all, train_run
from experiments.simclr_report import report
from train.errors import UsageError
from train.guard import skip_nonfinite
from train.identity import fingerprint
from train.logging import write_summary
from train.microbatch import microbatched
from train.mixed_precision import PrecisionName, make_precision
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig, evaluation_params, make_optimizer
from train.parallel import data_parallel
from train.state import create_state
from train.step import build_train_step

TRAINED = ("SimCLR", "supervised")
METHODS = (*TRAINED, "random encoder", "pixels")
CHUNK = 256
"""Images that are encoded at once for the probe."""


@dataclasses.dataclass(frozen=True)
class ImageDataConfig:
    """Which images, and what is held out."""

    name: str = "glyphs"
    """Data set: glyphs, digits, or the name of a TFDS data set with the features image and label."""
    views: Literal["faces", "same"] = "faces"
    """Two typefaces of a character, or the same image twice; augmented both. Only glyphs have faces."""
    held_out_faces: tuple[int, ...] = (2, 5, 10, 13)
    """Typefaces of the test, in no training: indices into experiments.data.glyphs.FACES."""
    max_examples: int | None = None
    """Read at most this many images of each split (None: all)."""
    skip_budget: int = 0
    """Damaged records of a split that are passed over; one more ends the run."""


@dataclasses.dataclass(frozen=True)
class Config(cli.StudyConfig):
    """Contrastive pretraining and a linear probe."""

    data: ImageDataConfig = ImageDataConfig()
    """The images."""
    augment: AugmentConfig = AugmentConfig()
    """How views are made."""
    model: EncoderConfig = EncoderConfig()
    """The encoder."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, warmup=0.1, weight_decay=0.01)
    """How it is trained, with and without labels."""
    temperature: float = 0.2
    """Temperature of NT-Xent."""
    steps: int = 600
    """Updates of an encoder."""
    batch_size: int = 128
    """Pairs in a batch, over all devices."""
    encoder_chunks: int = 1
    """Parts in which the encoder processes the views of a device; changes the memory needed, not the result."""
    backend: Literal["jit", "pmap", "shard_map"] = "jit"
    """How a step is spread over the devices."""
    precision: PrecisionName = "float32"
    """Type in which convolutions and products are computed; the rest is float32. With float16 gradients are scaled."""
    checks: bool = False
    """Check losses, weights and gradients inside the compiled step."""
    seeds: int = 3
    """Encoders of each kind, each probed with labels of its own draw."""
    budgets: tuple[int, ...] = (1, 3, 9)
    """Labels of each class in the probe."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""

    def fast(self) -> Config:
        """The same path on less of everything."""
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, max_examples=self.data.max_examples or 320),
            model=dataclasses.replace(self.model, channels=(4, 8), features=16, projection=8),
            steps=6,
            batch_size=16,
            seeds=2,
            budgets=(1, 3),
            checkpoint_every=3,
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """What each part of the study sees; images are uint8 [N, H, W, C] and labels count from 0."""

    pretraining: Images
    labelled: Images
    test: Images
    scale: float
    """The largest value of a pixel."""
    faces: bool
    """Whether the views are two faces of a character."""


def make_data(config: Config) -> Data:
    """Reads the images and divides them.

    With faces, the probe's classes are characters that the pretraining lacks, and its test is on the held-out faces.
    Without, the pretraining's images have the labels, and the test is the data set's own test split.
    """
    limits: dict[str, Any] = {"limit": config.data.max_examples, "skip_budget": config.data.skip_budget}
    train, test = (read_images(config.data.name, split, **limits) for split in ("train", "test"))
    held_out = np.asarray(config.data.held_out_faces)
    if len(np.unique(test.face)) > 1:
        pretraining = train.take(~np.isin(train.face, held_out))
        labelled, test = test.take(~np.isin(test.face, held_out)), test.take(np.isin(test.face, held_out))
    else:
        pretraining = labelled = train
    if len(test) == 0 or len(labelled) == 0:
        raise UsageError("Nothing is left to train or to test on; hold out some of the faces, not all and not none.")
    classes = np.unique(labelled.label)
    test = test.take(np.isin(test.label, classes))
    faces = config.data.views == "faces" and len(np.unique(pretraining.face)) > 1
    scale = float(max(train.image.max(), 1))
    return Data(_prepared(pretraining), _prepared(labelled), _prepared(test), scale, faces)


def _prepared(images: Images) -> Images:
    image = images.image if images.image.ndim == 4 else images.image[..., None]
    return Images(image, np.unique(images.label, return_inverse=True)[1].astype(np.int32), images.face)


def make_model(config: Config, method: str, num_classes: int) -> nn.Module:
    """The encoder with a projection, or with a classifier."""
    dtype = make_precision(config.precision).compute
    if method == "supervised":
        return ImageClassifier(config.model, num_classes, dtype)
    return Projector(config.model, dtype)


def make_objective(model: nn.Module, method: str, config: Config, scale: float) -> Objective:
    """NT-Xent between two views, or cross-entropy of both views of the same batches."""

    def outputs(params: Any, images: jax.Array) -> jax.Array:
        out: Any = model.apply({"params": params}, images)
        return out.output

    encode = microbatched(outputs, config.encoder_chunks)

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        images = jnp.concatenate([batch["view_a"], batch["view_b"]]).astype(jnp.float32) / scale
        # Of the whole batch, before it is cut into micro-batches: the views do not depend on their number.
        out = encode(params, augment(ctx.key, images, config.augment))
        if method == "supervised":
            labels = jnp.tile(batch["label"], 2)
            return {
                "cross_entropy": term(lossfns.softmax_cross_entropy, out, labels),
                "accuracy": Term(out.argmax(-1) == labels),
            }
        a, b = jnp.split(out, 2)
        lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
        return {
            "nt_xent": term(lossfns.nt_xent, a, b, temperature=config.temperature, axis_name=ctx.axis_name),
            "cosine": Term(jnp.sum(a * b, axis=-1) / jnp.maximum(lengths, 1e-12)),
        }

    return objective


def make_learner(config: Config, data: Data, method: str, workdir: Path) -> Callable[[int, bool], Any]:
    """Returns `(seed, trained) -> parameters` of a method, compiled once for all seeds."""
    model = make_model(config, method, int(data.pretraining.label.max()) + 1)
    optimizer = make_optimizer(config.optimizer, config.steps)
    precision = make_precision(config.precision)
    objective = precision.wrap(make_objective(model, method, config, data.scale), cast=False)
    loss = "cross_entropy" if method == "supervised" else "nt_xent"
    body = build_train_step(objective, optimizer, loss_weights={loss: 1.0}, checks=config.checks)
    step = data_parallel(precision.scaled(skip_nonfinite(body)), config.backend)

    def learn(seed: int, trained: bool) -> Any:
        key = config.seed + seed
        params: Any = model.init(jax.random.key(key), jnp.zeros((1, *data.pretraining.image.shape[1:])))["params"]
        if not trained:
            return params
        state = train_run(
            run_folder(workdir, method, seed),
            create_state(params, optimizer, key=key, loss_scale=precision.loss_scale()),
            step,
            pair_batches(data.pretraining, batch_size=config.batch_size, seed=key, faces=data.faces),
            steps=config.steps,
            checkpoint_every=config.checkpoint_every,
            label=f"{method}, encoder {seed + 1} of {config.seeds}",
            options=config,
            split=("--encoder-chunks", config.encoder_chunks),
            data=fingerprint(data.pretraining),
        )
        return evaluation_params(state)

    return learn


def run_folder(workdir: Path, method: str, seed: int) -> Path:
    """The folder of one trained encoder."""
    return workdir / "runs" / f"{method}-{seed}"


def features_of(config: Config, params: Any, images: Images, scale: float) -> np.ndarray:
    """Representations [N, features] of images as they are, without augmentation."""
    encoder = ConvEncoder(config.model)
    encode = jax.jit(lambda rows: encoder.apply({"params": params["encoder"]}, rows / scale))
    blocks = []
    for start in range(0, len(images), CHUNK):
        rows = images.image[start : start + CHUNK].astype(np.float32)
        padded = np.concatenate([rows, np.zeros((CHUNK - len(rows), *rows.shape[1:]), np.float32)])
        blocks.append(np.asarray(encode(padded))[: len(rows)])
    return np.concatenate(blocks)


def pixels_of(images: Images) -> np.ndarray:
    """The pixels [N, D] as features, averaged over squares to at most 16 by 16 of them."""
    image = images.image.astype(np.float32)
    factor = max(1, image.shape[1] // 16)
    height, width = (size // factor for size in image.shape[1:3])
    image = image[:, : height * factor, : width * factor]
    return image.reshape(len(image), height, factor, width, factor, -1).mean((2, 4)).reshape(len(image), -1)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary, of which a dry run has none."""
    workdir = cli.start(config, "simclr")
    data = make_data(config)
    learners = {method: make_learner(config, data, method, workdir) for method in TRAINED}
    if config.dry_run:
        for learn in learners.values():
            learn(0, True)
        return {}

    def run(method: str, seed: int) -> Result:
        if method == "pixels":
            features = [pixels_of(images) for images in (data.labelled, data.test)]
        else:
            trained = method in TRAINED
            params = learners[method if trained else "SimCLR"](seed, trained)
            features = [features_of(config, params, images, data.scale) for images in (data.labelled, data.test)]
        parts = (features[0], data.labelled.label), (features[1], data.test.label)
        return probe(*parts, config.budgets, config.seed + seed)

    grid = product(seed=range(config.seeds), method=METHODS)
    results = run_all(workdir / "results.json", grid, run, progress=False)
    folders = {m: [run_folder(workdir, m, seed) for seed in range(config.seeds)] for m in TRAINED}
    gather_metrics(workdir, {f.name: f for group in folders.values() for f in group})
    summary = report(config, data, results, folders, workdir)
    write_summary(workdir, summary)
    return summary


if __name__ == "__main__":
    cli.run(main, Config, "simclr", __doc__)
