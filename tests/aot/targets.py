"""Accelerators that programs are compiled for without being there: TPU v5e by libtpu, H100 by JAX's CUDA plugin."""

import dataclasses
import functools
import importlib.util
import os

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# NVIDIA's public figures for the H100 SXM and compute capability 9.0, as a target configuration of XLA.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """What to compile for."""

    platform: str
    module: str
    """The package whose compiler it is."""
    topology: dict

    @functools.cached_property
    def mesh(self):
        if importlib.util.find_spec(self.module) is None:
            pytest.skip(f"{self.module} is not installed: pip install 'lossfns[aot]'")
        description = topologies.get_topology_desc(platform=self.platform, **self.topology)
        return Mesh(np.array(description.devices[:1]), ("data",))

    def compile(self, function, *arrays):
        """The program of a function of whole arrays on one device."""
        placed = NamedSharding(self.mesh, PartitionSpec())
        given = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed) for x in arrays]
        return jax.jit(function).trace(*given).lower(lowering_platforms=(self.platform,)).compile()


# No machine is asked for what it is, none is taken hold of.
os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
TARGETS = {
    "H100": Target("cuda", "jax_cuda13_plugin", {"topology": "1x1x1", "target_config": H100}),
    "v5e": Target("tpu", "libtpu", {"topology_name": "v5e:1x1", "chips_per_host_bounds": [1, 1, 1]}),
}
