"""What the parts of `benchmarks.gpu` ask of a device."""

from __future__ import annotations

import torch

PEAK_TFLOPS = {
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "4090": 165,
    "B200": 2250,
}
HEADROOM = 0.92  # of the free memory may be planned for
Row = dict[str, object]


class Skipped(Exception):
    """A part cannot run here; the message says why."""


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def peak_gb(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def peak_of(device: torch.device) -> float | None:
    """Dense bf16 TFLOP/s by the maker, None where the device is not known: give --peak-tflops."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    words = name.replace("-", " ").split()
    return next(
        (peak for key, peak in PEAK_TFLOPS.items() if any(w.startswith(key) for w in words)), None
    )
