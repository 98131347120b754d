"""Published numbers of hardware. Rates are peaks of data sheets; `reasoner_rl.plan.time` says what share is assumed."""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_rl.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Hardware:
    """One accelerator, and the links of it. Bytes per second and FLOP per second."""

    name: str
    memory_gib: float | None  # what the driver reports as whole; None: as much as the host has
    flops: float  # dense matrix products in bfloat16; on a CPU in float32
    bandwidth: float  # of its memory
    peer_bandwidth: float  # to a neighbour in the machine, one direction
    network_bandwidth: float  # of one accelerator to other machines, one direction
    host_bandwidth: float  # to pinned host memory, one direction
    source: str

    @property
    def on_cpu(self) -> bool:
        """Whether device and host have the same memory."""
        return self.memory_gib is None


# Network: one ConnectX-7 port of 400 Gbit/s per GPU (A100: 200), as in DGX systems. Host: PCIe 5 measured here on H100
# and H200 (docs/results.md), PCIe 4 half of it.
_TABLE = (
    Hardware("A100", 79.3, 312e12, 2.039e12, 300e9, 25e9, 25e9, "NVIDIA A100 80GB SXM data sheet"),
    Hardware("H100", 79.1, 989e12, 3.35e12, 450e9, 50e9, 50e9, "NVIDIA H100 SXM data sheet"),
    Hardware("H200", 139.8, 989e12, 4.8e12, 450e9, 50e9, 50e9, "NVIDIA H200 SXM data sheet"),
    Hardware("H20", 95.6, 148e12, 4.0e12, 450e9, 50e9, 50e9, "NVIDIA H20 96GB, figures as sold"),
    Hardware("B200", 178.4, 2.25e15, 7.7e12, 900e9, 50e9, 50e9, "NVIDIA DGX B200 data sheet, per GPU"),
    # One core with AVX2 and its share of two channels of DDR4; a CPU is here to check memory, not speed.
    Hardware("cpu", None, 40e9, 20e9, 20e9, 20e9, 20e9, "one core, an order of magnitude"),
)
HARDWARE = {each.name: each for each in _TABLE}


def hardware(name: str) -> Hardware:
    """The hardware of this name. Raises ConfigError if there is none."""
    found = {known.lower(): each for known, each in HARDWARE.items()}.get(name.lower())
    if found is None:
        raise ConfigError(f"--hardware {name!r}: must be one of {', '.join(HARDWARE)}")
    return found
