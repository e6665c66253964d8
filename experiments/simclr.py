"""Learn representations of glyphs without labels by NT-Xent, and probe them on unseen characters and typefaces.

Contrastive learning (Chen et al. 2020, arXiv:2002.05709). The two views of a pair are two typefaces of one character,
drawn by people (and also shifted, scaled, faded and noised). A linear probe on the frozen encoder classifies 208
characters that are absent from pretraining. Its labels come from the pretraining typefaces, its test images from four
others. Baselines are the same probe on a random encoder, on an encoder trained with cross-entropy on the pretraining
characters, and on the pixels. A pair of typefaces reveals that two images show one character, so the supervised encoder
has the same information; only the loss differs. Fonts: matplotlib's (Vera, STIX, BaKoMa licences).

    python -m experiments.simclr
    python -m experiments.simclr --data.name=digits    # augmented views of handwritten digits, other writers held out

NT-Xent couples the examples of a batch: the other examples are the negatives, so gradient accumulation would change the
loss. To save memory, `--encoder-chunks` splits only the encoder into micro-batches, which is exact.

Expected on glyphs with 1, 3 and 9 labels a character: 0.768 ± 0.008, 0.891 ± 0.008 and 0.957 ± 0.006 (5 seeds), equal
to the supervised encoder within the spread (0.749, 0.881, 0.955) and far above a random encoder (0.438, 0.652, 0.857)
and pixels (0.515, 0.760, 0.933). 10 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import study
from experiments.data.images import ImageDataConfig, Images, pair_batches, pixels_of, read_images
from experiments.evaluation.linear_probe import probe
from experiments.models.vision import AugmentConfig, EncoderConfig, ImageClassifier, Projector, augment, encode
from experiments.study import Question, Recipe, Row, Run, Start, Training, TrainingConfig, axis, fit_model, product
from train.errors import UsageError
from train.microbatch import microbatched
from train.objective import Context, Objective, Term, term
from train.objectives.precision import make_precision
from train.optimizers import OptimizerConfig
from train.records import plots
from train.records.report import Image

LOSSES = {"SimCLR": "nt_xent", "supervised": "cross_entropy"}
METHODS = (*LOSSES, "random encoder", "pixels")
QUESTIONS = (
    Question(
        "accuracy",
        treatment={"method": "SimCLR"},
        baselines=({"method": "random encoder"}, {"method": "pixels"}),
        by="labels",
        at=(1, 3, 9),
        claim="What is learnt without labels tells new characters in new typefaces apart better than chance and pixels",
    ),
    Question(
        "accuracy",
        treatment={"method": "SimCLR"},
        baselines=({"method": "supervised"},),
        by="labels",
        at=(1, 3, 9),
        expected="same",
        margin=0.03,
        claim="NT-Xent learns as much from pairs of one character as cross-entropy learns from the characters",
    ),
    Question(
        "accuracy",
        treatment={"method": "SimCLR"},
        baselines=({"method": "pixels"},),
        by="labels",
        at=((1, 9),),
        claim="It helps most where labels are few",
    ),
)


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Contrastive pretraining and a linear probe."""

    data: ImageDataConfig = ImageDataConfig()
    """The images."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of the views."""
    model: EncoderConfig = EncoderConfig()
    """The encoder."""
    training: Training = TrainingConfig(
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup=0.1, weight_decay=0.01),
        steps=600,
        batch_size=128,
        checkpoint_every=200,
    )
    """Training, with and without labels; a batch consists of pairs."""
    temperature: float = 0.2
    """Temperature of NT-Xent."""
    encoder_chunks: int = 1
    """Number of parts in which the encoder processes the views of a device; affects memory, not the result."""
    seeds: int = axis(5)
    """Number of encoders of each method; each is probed with its own draw of labels."""
    budgets: tuple[int, ...] = (1, 3, 9)
    """Labels per class in the probe."""

    def __post_init__(self) -> None:
        if self.training.accumulate > 1:
            raise UsageError("--accumulate would change NT-Xent's negatives; use the exact --encoder-chunks instead")

    def fast(self) -> Config:
        """Returns a small config that runs the same code in seconds."""
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, max_examples=self.data.max_examples or 320),
            model=dataclasses.replace(self.model, channels=(4, 8), features=16, projection=8),
            training=dataclasses.replace(self.training, steps=6, batch_size=16, checkpoint_every=3),
            seeds=2,
            budgets=(1, 3),
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """Images of each part of the study, uint8 [N, H, W, C]; labels count from 0."""

    pretraining: Images
    labelled: Images
    test: Images
    scale: float
    """Largest pixel value."""
    faces: bool
    """Whether the two views are two typefaces of one character."""


def make_data(config: Config) -> Data:
    """Reads and splits the images.

    With faces, the classes of the probe are characters that are absent from pretraining, and its test images have the
    held-out faces. Without faces, the probe uses the pretraining images and the test split of the data set.
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
        raise UsageError("The training or the test set is empty: hold out at least one face, but not all of them.")
    test = test.take(np.isin(test.label, np.unique(labelled.label)))
    faces = config.data.views == "faces" and len(np.unique(pretraining.face)) > 1
    scale = float(max(train.image.max(), 1))
    return Data(pretraining.numbered(), labelled.numbered(), test.numbered(), scale, faces)


def make_model(config: Config, method: str, num_classes: int) -> nn.Module:
    """Returns the encoder with a projection head or with a classifier."""
    dtype = make_precision(config.training.precision).compute
    if method == "supervised":
        return ImageClassifier(config.model, num_classes, dtype)
    return Projector(config.model, dtype)


def make_objective(model: nn.Module, method: str, config: Config, scale: float) -> Objective:
    """Returns NT-Xent between two views, or cross-entropy of both views of the same batches."""

    def outputs(params: Any, images: jax.Array) -> jax.Array:
        out: Any = model.apply({"params": params}, images)
        return out.output

    encode = microbatched(outputs, config.encoder_chunks)

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        images = jnp.concatenate([batch["view_a"], batch["view_b"]]).astype(jnp.float32) / scale
        # For the whole batch, before it is split: the views do not depend on the number of micro-batches.
        out = encode(params, augment(ctx.key, images, config.augment))
        if method == "supervised":
            labels = jnp.tile(batch["label"], 2)
            return {
                "cross_entropy": term(lossfns.softmax_cross_entropy, out, labels),
                "accuracy": Term(out.argmax(-1) == labels),
            }
        a, b = jnp.split(out, 2)
        return {
            "nt_xent": term(lossfns.nt_xent, a, b, temperature=config.temperature, axis_name=ctx.axis_name),
            "cosine": Term(1 - lossfns.cosine_distance(a, b)),
        }

    return objective


def draw_views(config: Config, data: Data, run: Run) -> Image:
    """Draws some pairs of training views."""
    pairs = min(14, config.training.batch_size)
    batch = next(pair_batches(data.pretraining, batch_size=pairs, seed=config.seed, faces=data.faces))
    images = np.concatenate([batch["view_a"], batch["view_b"]]) / np.float32(data.scale)
    views = np.clip(augment(jax.random.key(config.seed), jnp.asarray(images), config.augment), 0, 1).mean(-1)
    plots.image_rows(run.path / "plots" / "views.png", 1 - views.reshape(2, pairs, *views.shape[1:]))
    return Image("plots/views.png", "Pairs of views, one above the other, as the encoder sees them")


def evaluate(config: Config, data: Data, recipes: dict[str, Recipe], run: Run, *, method: str, seed: int) -> list[Row]:
    """Trains the encoder of a method, unless it is random, and probes its features."""
    key, sets = config.seed + seed, (data.labelled, data.test)
    if method == "pixels":
        features = [pixels_of(images) for images in sets]
    else:
        classes = int(data.pretraining.label.max()) + 1
        model = make_model(config, method, classes)
        params: Any = model.init(jax.random.key(key), jnp.zeros((1, *data.test.image.shape[1:])))["params"]
        if method in LOSSES:
            batches = pair_batches(data.pretraining, batch_size=config.training.batch_size, seed=key, faces=data.faces)
            folder = run.folder(method=method, seed=seed)
            start = Start(params, key)
            params = fit_model(recipes[method], start, batches, training=config.training, folder=folder).params
        if (method, seed) == ("SimCLR", 0):
            run.save(params, method, classes)
        features = [encode(config.model, params["encoder"], images.image, data.scale) for images in sets]
    return probe((features[0], data.labelled.label), (features[1], data.test.label), config.budgets, key)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data = make_data(config)
        run.uses(data)
        classes = int(data.pretraining.label.max()) + 1
        recipes = {
            method: Recipe(
                make_objective(make_model(config, method, classes), method, config, data.scale),
                {loss: 1.0},
                split=("--encoder-chunks", config.encoder_chunks),
            )
            for method, loss in LOSSES.items()
        }
        grid = product(seed=range(config.seeds), method=METHODS)
        results = run.all(grid, lambda **setting: evaluate(config, data, recipes, run, **setting))
        return run.report(
            results,
            QUESTIONS,
            figures=[lambda: draw_views(config, data, run)],
            notes=[
                f"Pretrained on {len(data.pretraining):,} images of {config.data.name}; the probe is tested on "
                f"{len(data.test):,} images of {data.labelled.label.max() + 1} classes."
            ],
            curves={"nt_xent": "NT-Xent (nats)", "cosine": "cosine of the views", "cross_entropy": "cross-entropy"},
            title=f"Contrastive learning on {config.data.name}",
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
