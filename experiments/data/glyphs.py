"""Glyphs as a TFDS data set: characters rendered from the fonts that matplotlib ships.

One example is one character in one typeface (face). The faces of a character are natural views, drawn by people and not
by an augmentation. All glyphs of a face share size and baseline, so `o` and `O`, or `'` and `,`, stay distinct.

Decisions:

- **Classes** are letters, digits, punctuation and symbols that at least `MIN_FACES` of the 16 faces have, that fit into
  the image, and that look like no earlier class in the first face: Latin, Greek and Cyrillic A share one drawing, so
  only the Latin one is a class.
- **Splits** are by character (8 : 1 : 1 of the classes, interleaved over the code points), as few-shot learning
  needs. For known classes in new faces, divide one split by `face`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

FACES: tuple[str, ...] = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
)
"""File names of the faces; an example's `face` is an index into them."""

SIZE = 32
"""Height and width of an image."""
EM = 22
"""Font size in pixels."""
BASELINE = 23
"""Row of the baseline, counted from the top."""
MIN_FACES = 10
"""Minimum number of faces with a character for it to be a class."""

_KINDS = frozenset(
    {"Lu", "Ll", "Lo", "Lt", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "So"}
)


class Face:
    """One font file, opened at one size."""

    def __init__(self, name: str):
        import matplotlib
        from matplotlib.ft2font import FT2Font

        self._font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"))
        self._font.set_size(EM, 72)
        self.characters: frozenset[str] = frozenset(
            chr(c) for c in self._font.get_charmap() if unicodedata.category(chr(c)) in _KINDS
        )

    def render(self, character: str) -> np.ndarray | None:
        """Draws a character with its baseline in place and its ink centred from left to right.

        Args:
            character: a character of the face.

        Returns:
            uint8 [SIZE, SIZE], 0 (paper) to 255 (ink), or None if there is no ink or it does not fit.
        """
        from matplotlib.ft2font import LoadFlags

        self._font.set_text(character, 0.0, flags=LoadFlags.NO_HINTING)
        self._font.draw_glyphs_to_bitmap(antialiased=True)
        ink = np.asarray(self._font.get_image())
        top = BASELINE + int(np.ceil(self._font.get_descent() / 64)) - ink.shape[0]
        left = (SIZE - ink.shape[1]) // 2
        if not ink.any() or left < 0 or top < 0 or top + ink.shape[0] > SIZE:
            return None
        image = np.zeros((SIZE, SIZE), np.uint8)
        image[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
        return image


def render_classes() -> list[tuple[str, dict[int, np.ndarray]]]:
    """Renders all classes.

    Returns:
        (character, {face: image}) by code point.
    """
    faces = [Face(name) for name in FACES]
    counts: dict[str, int] = {}
    for face in faces:
        for character in face.characters:
            counts[character] = counts.get(character, 0) + 1
    classes, seen = [], set()
    for character in sorted(c for c, count in counts.items() if count >= MIN_FACES):
        drawn = {i: face.render(character) for i, face in enumerate(faces) if character in face.characters}
        images = {i: image for i, image in drawn.items() if image is not None}
        if len(images) < MIN_FACES:
            continue
        look = images[min(images)].tobytes()
        if look not in seen:
            seen.add(look)
            classes.append((character, images))
    return classes


def split_of(label: int) -> str:
    """Returns the split of a class: of every ten, the ninth is validation and the tenth is test."""
    return {8: "validation", 9: "test"}.get(label % 10, "train")


class Glyphs(tfds.core.GeneratorBasedBuilder):
    """Characters in up to 16 faces, 32 x 32 pixels of 0 (paper) to 255 (ink)."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # no checksums needed; TFDS would import the package importlib_resources to find their folder

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Characters rendered from the DejaVu and STIX fonts that matplotlib ships.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(SIZE, SIZE), dtype=np.uint8),
                    "label": np.int32,
                    "face": np.int32,
                    "face_name": tfds.features.Text(),
                    "character": tfds.features.Text(),
                    "name": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        classes = list(enumerate(render_classes()))
        return {
            split: self._generate_examples([item for item in classes if split_of(item[0]) == split])
            for split in ("train", "validation", "test")
        }

    def _generate_examples(
        self, classes: list[tuple[int, tuple[str, dict[int, np.ndarray]]]]
    ) -> Iterator[tuple[int, dict]]:
        key = 0
        for label, (character, images) in classes:
            for face, image in images.items():
                yield (
                    key,
                    {
                        "image": image,
                        "label": label,
                        "face": face,
                        "face_name": FACES[face],
                        "character": character,
                        "name": unicodedata.name(character, f"U+{ord(character):04X}"),
                    },
                )
                key += 1
