"""Eight CPU devices, strict ranks, and a compilation cache in the temporary folder of the machine."""

import os
import tempfile
from pathlib import Path

import jax

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(Path(tempfile.gettempdir()) / f"lossfns-tests-{jax.__version__}"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
