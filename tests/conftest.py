"""Eight CPU devices, strict ranks, and a compilation cache that nobody else can write to."""

import os
import tempfile

import jax

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


def cache_folder() -> str:
    """A folder of this user alone: what lies in it is run. In the user's cache folder, or else new every time."""
    from train.devices.compilation_cache import private_folder, user_cache
    from train.errors import UsageError

    try:
        return str(private_folder(user_cache() / "tests" / f"jax-{jax.__version__}"))
    except (OSError, UsageError):
        return tempfile.mkdtemp(prefix="lossfns-tests-")


jax.config.update("jax_compilation_cache_dir", cache_folder())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
