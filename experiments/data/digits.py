"""Scikit-learn's handwritten digits as a TFDS data set: 1,797 images of 8 x 8 with values 0 to 16."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

SHARES: dict[str, tuple[float, float]] = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}
"""Fractions of each class for a split, in the order of the data set."""


def split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Splits each class in the order of the data set, so that every split has the same class proportions.

    Digits of one writer are adjacent in the set, so consecutive parts separate most writers; a shuffled split would mix
    them.

    Args:
        labels: int [N].

    Returns:
        Sorted indices of "train", "validation" and "test".

    >>> {k: v.tolist() for k, v in split_indices(np.zeros(10, int)).items()}
    {'train': [0, 1, 2, 3, 4, 5, 6], 'validation': [7], 'test': [8, 9]}
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return {
        split: np.sort(np.concatenate([m[round(low * len(m)) : round(high * len(m))] for m in members]))
        for split, (low, high) in SHARES.items()
    }


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits, 8 x 8 pixels of 0 (paper) to 16 (ink)."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # no checksums needed; TFDS would import the package importlib_resources to find their folder

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits (Alpaydin and Kaynak 1998) from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Tensor(shape=(8, 8), dtype=np.uint8), "label": np.int32}
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        splits = split_indices(labels)
        return {split: self._generate_examples(images[i], labels[i]) for split, i in splits.items()}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict]]:
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield key, {"image": image.reshape(8, 8).astype(np.uint8), "label": int(label)}
