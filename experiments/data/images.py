"""Images as arrays, and Grain pipelines for pairs of views and for labelled batches."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import grain
import numpy as np

from experiments.data.bert import READ, Batch, endless
from experiments.data.load import load, read_all, remedy_for
from train.errors import UsageError


@dataclass(frozen=True)
class ImageDataConfig:
    """The images and the held-out faces."""

    name: str = "glyphs"
    """Data set: glyphs, digits, or the name of a TFDS data set with the features image and label."""
    views: Literal["faces", "same"] = "faces"
    """Views: two typefaces of a character, or the same image twice, both augmented. Only glyphs have faces."""
    held_out_faces: tuple[int, ...] = (2, 5, 10, 13)
    """Typefaces held out for the test: indices into experiments.data.glyphs.FACES."""
    max_examples: int | None = None
    """Read at most this many images of each split (None: all)."""
    skip_budget: int = 0
    """Maximum number of damaged records to skip in a split; one more ends the run."""


@dataclass(frozen=True)
class Images:
    """N images in memory: `image` uint8 [N, H, W] or [N, H, W, C], `label` and `face` int32 [N].

    `face` distinguishes the renderings of one glyph; it is 0 in data sets without faces.
    """

    image: np.ndarray
    label: np.ndarray
    face: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: np.ndarray) -> Images:
        """Returns the images of an index or boolean array."""
        return Images(self.image[index], self.label[index], self.face[index])

    def numbered(self) -> Images:
        """Returns the images with a channel axis, and the occurring classes renumbered from 0."""
        image = self.image if self.image.ndim == 4 else self.image[..., None]
        return Images(image, np.unique(self.label, return_inverse=True)[1].astype(np.int32), self.face)


def read_images(
    name: str,
    split: str,
    *,
    limit: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    skip_budget: int = 0,
) -> Images:
    """Reads a split into memory.

    Args:
        name: "digits", "glyphs" or a TFDS name with the features `image` (all of one shape) and `label`.
        split: "train", "validation", "test" or a split of the data set's own.
        limit: at most this many examples.
        directory: folder of prepared data.
        skip_budget: maximum number of damaged records to skip.

    Returns:
        The images.

    Raises:
        UsageError: see `load`; or the data set has no such features.
    """
    source = load(name, split, data_dir=directory)
    what, remedy = f"{name}, split {split}", remedy_for(name, directory)
    examples = read_all(source, limit, what=what, skip_budget=skip_budget, remedy=remedy)
    if "image" not in examples[0] or "label" not in examples[0]:
        raise UsageError(f"{name} needs the features image and label; it has {', '.join(examples[0])}.")
    shapes = {np.shape(e["image"]) for e in examples}
    if len(shapes) > 1:
        raise UsageError(f"{name} has images of {len(shapes)} sizes, such as {sorted(shapes)[:2]}; they must be equal.")
    return Images(
        image=np.stack([e["image"] for e in examples]),
        label=np.asarray([e["label"] for e in examples], np.int32),
        face=np.asarray([e.get("face", 0) for e in examples], np.int32),
    )


@dataclass(frozen=True)
class _Pairs:
    """Two images of each class in a batch, or the same image twice."""

    images: Images
    seed: int
    order: np.ndarray | None
    first: np.ndarray
    count: np.ndarray

    def __call__(self, step: int, index: np.ndarray) -> Batch:
        index = np.asarray(index)
        if self.order is None:
            a = b = index
        else:
            rng = np.random.default_rng([self.seed, step])
            draw = rng.integers(0, self.count[index])
            other = (draw + rng.integers(1, self.count[index])) % self.count[index]
            a, b = self.order[self.first[index] + draw], self.order[self.first[index] + other]
        return {"view_a": self.images.image[a], "view_b": self.images.image[b], "label": self.images.label[a]}


def pair_batches(images: Images, *, batch_size: int, seed: int = 0, faces: bool = False) -> grain.DatasetIterator:
    """Returns endless batches of positive pairs for contrastive learning.

    Args:
        images: the training images.
        batch_size: B pairs.
        seed: seed of order and choice.
        faces: True gives two different images of one class (two faces of a glyph) and no class twice within a pass, so
            that all negatives are true ones; False gives the same image twice, to be augmented on the device.

    Returns:
        Batches {"view_a", "view_b": uint8 [B, H, W], "label": int32 [B]}; resumable by `get_state` and `set_state`.

    Raises:
        UsageError: `faces` is True, but no class has two images.
    """
    order, first, count = None, np.zeros(0, int), np.zeros(0, int)
    size = len(images)
    if faces:
        order = np.argsort(images.label, kind="stable")
        _, first, count = np.unique(images.label[order], return_index=True, return_counts=True)
        first, count = first[count > 1], count[count > 1]
        size = len(first)
        if size == 0:
            raise UsageError("Pairs of faces need classes with at least two images; this data has none.")
    make = _Pairs(images, seed, order, first, count)
    return iter(endless(size, batch_size, seed).map_with_index(make).to_iter_dataset(READ))


def pixels_of(images: Images) -> np.ndarray:
    """The pixels [N, D] as features; larger images are averaged over squares, to less than 32 by 32."""
    image = images.image.astype(np.float32)
    factor = max(1, image.shape[1] // 16)
    height, width = (size // factor for size in image.shape[1:3])
    image = image[:, : height * factor, : width * factor]
    return image.reshape(len(image), height, factor, width, factor, -1).mean((2, 4)).reshape(len(image), -1)
