"""A small Vision Transformer on grey images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.models.transformer import Block, Dense, TransformerConfig


class ViT(nn.Module):
    """Patches as tokens, blocks of attention, and a linear classifier on their mean (arXiv:2010.11929).

    Attributes:
        config: Size of the Transformer.
        num_classes: Logits.
        patch: Edge of a patch in pixels; it divides the edge of the image.
        dtype: Input dtype of matrix products.
    """

    config: TransformerConfig
    num_classes: int
    patch: int = 7
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Map images [N, S, S] to logits [N, num_classes]."""
        count, side, patch = len(images), images.shape[1] // self.patch, self.patch
        patches = images.reshape(count, side, patch, side, patch).swapaxes(2, 3).reshape(count, side**2, patch**2)
        places = self.param("position_embedding", nn.initializers.normal(0.02), (side**2, self.config.width))
        x = Dense(self.config.width, self.dtype, name="patch_embedding")(patches) + places[None]
        block = nn.remat(Block, static_argnums=(3,)) if self.config.recompute else Block  # of (self, x, visible, train)
        for number in range(self.config.depth):
            x = block(self.config, self.dtype, name=f"block_{number}")(x, jnp.ones((1, 1, 1, side**2), bool), train)
        return Dense(self.num_classes, use_bias=True, name="head")(nn.LayerNorm(name="norm")(x).mean(1))
