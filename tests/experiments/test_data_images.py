"""Digits, glyphs and pairs of views."""

import unicodedata

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from experiments.data import glyphs
from experiments.data.digits import split_indices
from experiments.data.draws import pool_of_images
from experiments.data.images import Images, pair_batches, pixels_of, read_images
from experiments.data.load import load, read_all
from train.errors import UsageError


def test_digits_are_those_of_scikit_learn_divided_by_class():
    images, labels = load_digits(return_X_y=True)
    parts = {split: read_images("digits", split) for split in ("train", "validation", "test")}
    index = split_indices(labels)
    assert sorted(np.concatenate(list(index.values())).tolist()) == list(range(1797))
    for split, part in parts.items():
        np.testing.assert_array_equal(part.image.reshape(len(part), 64), images[index[split]])
        np.testing.assert_array_equal(part.label, labels[index[split]])
        share = np.bincount(part.label) / np.bincount(labels)
        assert np.ptp(share) < 0.01
    assert parts["train"].image.dtype == np.uint8
    assert parts["train"].image.max() == 16


def test_a_glyph_keeps_size_and_baseline():
    face = glyphs.Face("DejaVuSans")

    def rows(character: str) -> tuple[int, int]:
        ink = np.flatnonzero(face.render(character).max(1) > 64)
        return int(ink[0]), int(ink[-1])

    assert abs(rows("x")[1] - rows("H")[1]) <= 1  # both stand on the baseline
    assert abs(rows("H")[1] + 1 - glyphs.BASELINE) <= 1
    assert rows("H")[0] < rows("x")[0]
    assert rows("g")[1] > rows("x")[1] + 2  # a descender
    assert rows("'")[1] < rows(",")[0]
    assert rows("O")[0] < rows("o")[0]
    columns = np.flatnonzero(face.render("H").max(0))
    assert abs(columns[0] + columns[-1] - (glyphs.SIZE - 1)) <= 1


def test_what_does_not_fit_or_has_no_ink_is_no_glyph():
    face = glyphs.Face("DejaVuSans")
    assert face.render("\u2003") is None  # a space
    assert face.render("\u01d7") is None  # U with diaeresis and acute is too tall


@pytest.fixture(scope="module")
def glyph_examples():
    return {split: read_all(load("glyphs", split)) for split in ("validation", "test")}


def test_glyphs_have_many_classes_of_many_faces_and_names(glyph_examples):
    classes = {split: {int(e["label"]) for e in rows} for split, rows in glyph_examples.items()}
    assert not classes["validation"] & classes["test"]
    assert all(len(c) > 100 for c in classes.values())
    for rows in glyph_examples.values():
        labels = np.asarray([e["label"] for e in rows])
        assert np.unique(labels, return_counts=True)[1].min() >= glyphs.MIN_FACES
        assert len({(int(e["label"]), int(e["face"])) for e in rows}) == len(rows)
        for e in rows[::200]:
            assert unicodedata.name(e["character"].decode()) == e["name"].decode()
            assert glyphs.FACES[e["face"]] == e["face_name"].decode()
            np.testing.assert_array_equal(
                e["image"], glyphs.Face(e["face_name"].decode()).render(e["character"].decode())
            )


def test_no_two_classes_share_a_drawing_in_the_first_face(glyph_examples):
    looks = [e["image"].tobytes() for rows in glyph_examples.values() for e in rows if e["face"] == 0]
    assert len(set(looks)) == len(looks)


def test_pairs_of_faces_are_two_images_of_one_class():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(12), [1, *[4] * 10, 2]).astype(np.int32)
    image = np.arange(len(label), dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    order = rng.permutation(len(label))
    images = Images(image[order], label[order], np.zeros(len(label), np.int32))
    iterator = pair_batches(images, batch_size=11, faces=True)
    seen = set()
    for _ in range(60):
        batch = next(iterator)
        a, b = batch["view_a"][:, 0, 0], batch["view_b"][:, 0, 0]
        assert (a != b).all()
        np.testing.assert_array_equal(label[a], batch["label"])
        np.testing.assert_array_equal(label[b], batch["label"])
        assert sorted(batch["label"].tolist()) == list(range(1, 12))  # each class once; class 0 has one image only
        seen |= set(zip(a.tolist(), b.tolist(), strict=True))
    assert len(seen) > 0.9 * (10 * 4 * 3 + 2)  # nearly every ordered pair came


def test_pairs_of_one_image():
    images = read_images("digits", "validation")
    batch = next(pair_batches(images, batch_size=6))
    np.testing.assert_array_equal(batch["view_a"], batch["view_b"])


def test_pixels_are_means_of_squares():
    image = np.arange(2 * 32 * 32, dtype=np.uint8).reshape(2, 32, 32, 1)
    found = pixels_of(Images(image, np.zeros(2, np.int32), np.zeros(2, np.int32)))
    assert found.shape == (2, 256)
    assert found[0, 0] == image[0, :2, :2].mean()


@pytest.mark.parametrize("faces", [True, False])
def test_image_batches_resume(faces):
    images = read_images("digits", "validation")
    a, b = (pair_batches(images, batch_size=4, seed=2, faces=faces) for _ in range(2))
    for _ in range(5):
        next(a)
    b.set_state(a.get_state())
    for _ in range(20):
        x, y = next(a), next(b)
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


@pytest.mark.parametrize(
    ("name", "shape", "features"),
    [("mnist", (28, 28, 1), 28 * 28), ("cifar10", (32, 32, 3), 16 * 16 * 3), ("omniglot", (105, 105, 3), 17 * 17 * 3)],
)
def test_any_tfds_images_take_the_same_path(name, shape, features):
    with tfds.testing.mock_data(num_examples=60):
        images = read_images(name, "train", limit=40)
        pool = pool_of_images(name, 40, seed=0)
    assert images.image.shape == (40, *shape)
    assert next(pair_batches(images, batch_size=4))["view_a"].dtype == np.uint8
    assert pool.x.shape[1] == features
    assert 0 <= pool.x.min() < pool.x.max() <= 1


def test_data_without_images_or_pairs_is_refused():
    with pytest.raises(UsageError, match=r"needs the features image and label; it has .*text"):
        read_images("bible_web", "test", limit=2)
    one = Images(np.zeros((3, 2, 2), np.uint8), np.arange(3, dtype=np.int32), np.zeros(3, np.int32))
    with pytest.raises(UsageError, match="at least two images"):
        pair_batches(one, batch_size=2, faces=True)
