"""Accelerators as targets of ahead-of-time compilation: TPUs by libtpu, H100 by JAX's CUDA plugin.

Needs the extra `aot`. `prepare` must be called before JAX is used.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
from typing import Any

import jax
from jax.experimental import topologies

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
    """Devices of one kind.

    Attributes:
        platform: JAX's name of the platform.
        module: The package of its compiler.
        memory: Bytes of one device.
        topology: The topology of the devices.
    """

    platform: str
    module: str
    memory: float
    topology: dict[str, Any]

    @property
    def installed(self) -> bool:
        """Whether the compiler is installed."""
        return importlib.util.find_spec(self.module) is not None

    @functools.cached_property
    def devices(self) -> list[Any]:
        """The devices, which cannot run anything."""
        return list(topologies.get_topology_desc(platform=self.platform, **self.topology).devices)


def _tpu(memory: float, **topology: Any) -> Target:
    return Target("tpu", "libtpu", memory, topology)


def _h100(shape: str) -> Target:
    return Target("cuda", "jax_cuda13_plugin", 80e9, {"topology": shape, "target_config": H100})


TARGETS = {
    "H100": _h100("1x1x1"),
    "8 H100": _h100("1x1x8"),
    "v5e": _tpu(16e9, topology_name="v5e:1x1", chips_per_host_bounds=[1, 1, 1]),
    "4 v5e": _tpu(16e9, topology_name="v5e:2x2"),
    "256 v5e": _tpu(16e9, topology_name="v5e:16x16"),
    "4 v5p": _tpu(95 * 2**30, topology_name="v5p:2x2x1"),
}


def prepare() -> None:
    """Keeps JAX, libtpu and the CUDA plugin from looking for real devices."""
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", CUDA_VISIBLE_DEVICES="-1")
    os.environ["TPU_MIN_LOG_LEVEL"] = os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    jax.config.update("jax_platforms", "cpu")


def mib(compiled: jax.stages.Compiled) -> float:
    """Temporary memory of a program in MiB: neither inputs nor outputs."""
    memory: Any = compiled.memory_analysis()
    return float(memory.temp_size_in_bytes) / 2**20
