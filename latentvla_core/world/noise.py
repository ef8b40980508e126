"""Hash noise and the optional compiler: the same plain functions run on scalars inside numba and on
whole arrays in NumPy.

Numba caches a compiled kernel by the file of the kernel; after a change here, touch the kernels'
files (`paint.py`, `shading.py`) as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import numba
    from numba.extending import overload, register_jitable

    HAVE_NUMBA = True
except ImportError:  # the optional extra `fast` is not installed; every kernel has a NumPy twin
    HAVE_NUMBA = False


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba (cached on disk) where it is installed; callers pick the NumPy twin where
    it is not.
    """
    if not HAVE_NUMBA:
        return function
    return numba.njit(cache=True, error_model="numpy")(
        function
    )  # else every division is checked for zero


def formula(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a branch-free function that numba inlines into kernels and NumPy calls with arrays."""
    return register_jitable(function) if HAVE_NUMBA else function


def clamp01(x):
    """Limit to [0, 1]; scalars or arrays."""
    return np.clip(x, 0.0, 1.0)


if (
    HAVE_NUMBA
):  # plain comparisons are several times faster than NumPy's minimum and maximum on scalars

    @overload(clamp01)
    def _clamp01(x):
        return lambda x: 0.0 if x < 0.0 else 1.0 if x > 1.0 else x


@formula
def hash01(ix, iy, seed):
    """Uniform [0, 1) value of integer lattice points; any int64 inputs below 2**20 in magnitude."""
    h = (ix * 374761393 + iy * 668265263 + seed * 144269504) & 0x7FFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0x7FFFFFFF
    h = ((h ^ (h >> 16)) * 1103515245) & 0x7FFFFFFF
    return (h ^ (h >> 15)) * (1.0 / 2147483648.0)


@formula
def value_noise(x, y, seed):
    """Smooth noise in [0, 1) with unit lattice; float inputs."""
    fx, fy = np.floor(x), np.floor(y)
    tx, ty = x - fx, y - fy
    ix, iy = np.int64(fx), np.int64(fy)
    sx, sy = tx * tx * (3.0 - 2.0 * tx), ty * ty * (3.0 - 2.0 * ty)
    low = hash01(ix, iy, seed) * (1.0 - sx) + hash01(ix + 1, iy, seed) * sx
    high = hash01(ix, iy + 1, seed) * (1.0 - sx) + hash01(ix + 1, iy + 1, seed) * sx
    return low * (1.0 - sy) + high * sy
