"""Reading pickles that strangers wrote: an allow-list per kind of file, and nothing else is ever
called.

A pickle is a program. This reader lets it name only the handful of globals that NAVSIM files need
(navsim_format.md §12), and even those are local look-alikes: arrays are rebuilt here from checked
bytes (numpy's own `__setstate__` trusts its input and can be made to read wild memory), and devkit
classes become inert records. Whatever a pickle does to the look-alikes, it cannot change them: they
refuse attribute writes.

What would take more memory, time or stack than any honest file is refused before it is loaded
(`guards/pickle_scan.py`).
"""

from __future__ import annotations

import io
import math
import pickle
import re
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, NoReturn

import numpy as np

from latentvla_core.data.guards.pickle_scan import Excess, check_pickle
from latentvla_core.errors import DataError
from latentvla_core.types import Array

SAFE_KINDS = (
    "biufSU"  # bool, integers, floats, bytes, text: kinds whose bytes cannot hide a pointer
)


_PLAIN_TYPE = re.compile(r"[<>=|]?[a-zA-Z?]\d{0,9}")


class PickleKind(Enum):
    """What a file claims to be; decides which names it may use."""

    LOG = "log"
    SUBMISSION = "submission"
    SYNTHETIC_SCENE = "synthetic scene"


class _Forbidden(pickle.UnpicklingError):
    """A name outside the allow-list, or an allowed one misused."""


class _Call:
    """A callable that a pickle can call and cannot alter."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any] | None) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        if self._function is None:
            raise _Forbidden("the file calls a class that it may only name")
        return self._function(*args)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _Forbidden(f"the file tries to change {name!r} of a loader function")

    __setstate__ = __delattr__ = __setattr__  # type: ignore[assignment]


class _FrozenClass(type):
    """A class that a pickle can instantiate and cannot alter."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise _Forbidden(f"the file tries to change {name!r} of class {cls.__name__}")


class Inert(metaclass=_FrozenClass):
    """Stands in for a navsim or nuPlan class: keeps arguments and state, does nothing."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: dict[str, Any]

    def __new__(cls, *args: Any) -> Inert:
        self = object.__new__(cls)
        self.args, self.state = args, {}
        return self

    def __setstate__(self, state: Any) -> None:
        """A dict, or (dict or None, dict of slots) as classes with `__slots__` give it."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.state.update(part)
            elif part is not None:
                raise _Forbidden(f"{type(self).__name__} has a state of type {type(part).__name__}")

    def get(self, name: str) -> Any:
        """The attribute, written with or without a leading underscore (navsim_format.md §10)."""
        for key in (name, f"_{name}"):
            if key in self.state:
                return self.state[key]
        raise KeyError(name)


def _inert(name: str) -> type[Inert]:
    return _FrozenClass(name, (Inert,), {"__slots__": ()})


class _Dtype:
    """A dtype under construction; its state may only confirm the byte order."""

    __slots__ = ("dtype",)

    def __init__(self, spec: Any, *flags: Any) -> None:
        if not isinstance(spec, str) or not _PLAIN_TYPE.fullmatch(spec):
            raise _Forbidden(f"array type {spec!r} is not a plain number or text")
        dtype = np.dtype(spec)
        if (
            dtype.kind not in SAFE_KINDS + "O"
            or dtype.fields is not None
            or dtype.subdtype is not None
        ):
            raise _Forbidden(f"array type {spec!r} is not a plain number or text")
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, order, *parts = state
        if order not in ("<", ">", "=", "|") or any(part is not None for part in parts[:3]):
            raise _Forbidden(f"array type {self.dtype} carries an unusual state")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """What `_reconstruct` returns: an array whose state is checked before numpy sees it."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:  # type: ignore[override]
        _version, shape, dtype, fortran, data = state
        size = _checked_size(shape)
        real = dtype.dtype
        if real.kind == "O":
            fits = isinstance(data, list) and len(data) == size
        else:
            fits = isinstance(data, bytes) and len(data) == size * real.itemsize
        if not fits:
            raise _Forbidden(
                f"array of shape {shape} and type {real} with {type(data).__name__} that does not fit"
            )
        _check_text(data, real)
        state = (1, shape, real, bool(fortran), data)
        super().__setstate__(state)  # pyright: ignore[reportArgumentType]


def _checked_size(shape: Any) -> int:
    if type(shape) is not tuple or not set(map(type, shape)) <= {int} or min(shape, default=0) < 0:
        raise _Forbidden(f"array with shape {shape!r}")
    return math.prod(shape)


def _check_text(data: Any, dtype: np.dtype) -> None:
    """numpy keeps text as code points; some that are none (> 0x10FFFF) make malformed strings."""
    if dtype.kind == "U" and len(data):
        points = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if points.max() > sys.maxunicode:
            raise _Forbidden("text with code points that do not exist")


def _reconstruct(_subtype: Any, _shape: Any, _typecode: Any) -> _Array:
    return _Array.__new__(_Array, (0,), np.int8)


def _from_buffer(data: Any, dtype: _Dtype, shape: Any, order: str = "C") -> Array:
    real = dtype.dtype
    if real.kind not in SAFE_KINDS or order not in ("C", "F", "A"):
        raise _Forbidden(f"buffer of type {real} in order {order!r}")
    _checked_size(shape)
    _check_text(data, real)
    flat = np.frombuffer(data, real) if len(data) else np.empty(0, real)
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]


def _scalar(dtype: _Dtype, data: Any = None) -> Any:
    real = dtype.dtype
    if real.kind == "O":
        return data
    if not isinstance(data, bytes) or len(data) != real.itemsize:
        raise _Forbidden(f"scalar of type {real} with data that does not fit")
    _check_text(data, real)
    return np.frombuffer(data, real)[0]


def _encode(text: str, codec: str = "latin1") -> bytes:
    """`_codecs.encode`, which protocol 2 uses for bytes; other codecs could be made to import
    modules.
    """
    if codec not in ("latin1", "latin-1"):
        raise _Forbidden(f"the file asks for the text codec {codec!r}")
    return text.encode("latin1")


def _path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _number(value: Any, *_name: Any) -> int:
    """nuPlan's enums travel as their value: `TrackedObjectType(0)`."""
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise _Forbidden(f"enum with value {value!r}")
    return value


def _numpy_names() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {
        ("numpy", "dtype"): _Call(_Dtype),
        ("numpy", "ndarray"): _Call(None),
        ("_codecs", "encode"): _Call(_encode),
    }
    for core in ("numpy.core", "numpy._core"):  # before and since numpy 2
        names[core + ".numeric", "_frombuffer"] = _Call(_from_buffer)
        names[core + ".multiarray", "_reconstruct"] = _Call(_reconstruct)
        names[core + ".multiarray", "scalar"] = _Call(_scalar)
    return names


_ACTORS, _MAPS, _SIM = (
    "nuplan.common.actor_state",
    "nuplan.common.maps",
    "nuplan.planning.simulation",
)
_TRAJECTORIES = {
    ("navsim.common.dataclasses", "Trajectory"): _inert("Trajectory"),
    (f"{_SIM}.trajectory.trajectory_sampling", "TrajectorySampling"): _inert("TrajectorySampling"),
}
_SCENE_CLASSES = {
    f"{_ACTORS}.agent": ("Agent",),
    f"{_ACTORS}.oriented_box": ("OrientedBox", "Dimension"),
    f"{_ACTORS}.scene_object": ("SceneObject", "SceneObjectMetadata"),
    f"{_ACTORS}.state_representation": (
        "StateSE2",
        "StateVector2D",
        "TimePoint",
        "ProgressStateSE2",
        "TemporalStateSE2",
    ),
    f"{_ACTORS}.static_object": ("StaticObject",),
    f"{_ACTORS}.tracked_objects": ("TrackedObjects",),
    f"{_ACTORS}.waypoint": ("Waypoint",),
    f"{_MAPS}.maps_datatypes": ("TrafficLightStatusData", "TrafficLightStatuses"),
    f"{_SIM}.observation.observation_type": ("DetectionsTracks",),
    f"{_SIM}.trajectory.predicted_trajectory": ("PredictedTrajectory",),
}
_SCENE_VALUES = {
    ("pathlib", "PosixPath"): _Call(_path),
    ("pathlib", "PurePosixPath"): _Call(_path),
    (f"{_ACTORS}.tracked_objects_types", "TrackedObjectType"): _Call(_number),
    (f"{_MAPS}.maps_datatypes", "TrafficLightStatusType"): _Call(_number),
}

_NUMPY = _numpy_names()
ALLOWED: dict[PickleKind, dict[tuple[str, str], Any]] = {
    PickleKind.LOG: _NUMPY,
    PickleKind.SUBMISSION: {**_NUMPY, **_TRAJECTORIES},
    PickleKind.SYNTHETIC_SCENE: {
        **_NUMPY,
        **_SCENE_VALUES,
        **{
            (module, name): _inert(name)
            for module, names in _SCENE_CLASSES.items()
            for name in names
        },
    },
}


class _AllowListUnpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, kind: PickleKind) -> None:
        super().__init__(stream)
        self._kind = kind

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = ALLOWED[self._kind].get((module_name, global_name))
        if found is None:
            raise _Forbidden(
                f"the file asks for {module_name}.{global_name}, which a {self._kind.value} has no use for"
            )
        return found

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Forbidden("the file refers to objects outside itself")


BROKEN = (
    *(
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
    ),
    *(OverflowError, MemoryError, AssertionError, RecursionError, SyntaxError),
)


def loads(data: bytes, kind: PickleKind, *, file: str) -> Any:
    """The object in `data`. Raises DataError naming the file, the reason and the remedy; runs
    nothing it finds.
    """
    if hint := _not_a_pickle(data):
        raise DataError(hint, file=file)
    try:
        check_pickle(data)
        return _AllowListUnpickler(io.BytesIO(data), kind).load()
    except Excess as error:
        raise DataError(
            f"refused: {error}; no honest {kind.value} does. Get it from its source", file=file
        ) from error
    except _Forbidden as error:
        raise DataError(
            f"refused: {error}. Nothing of it was run; never open it with plain pickle; get it from its source",
            file=file,
        ) from error
    except BROKEN as error:
        raise DataError(_broken_message(data, error), file=file) from error


def _not_a_pickle(data: bytes) -> str:
    """Why `data` is no pickle at all, or ""."""
    if not data:
        return "the file is empty (0 bytes); download it again"
    if data.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the data; run `git lfs pull` in the checkout it came from"
    if data[:1] in b"<" or data.startswith(b"\x1f\x8b"):
        return "this is a web page or an archive, not a pickle; download (or unpack) it again"
    return ""


def _broken_message(data: bytes, error: BaseException) -> str:
    if not data.endswith(b".") or isinstance(error, EOFError):
        return f"the file ends early, after {len(data):,} bytes ({error}); download it again"
    return f"not a readable pickle ({type(error).__name__}: {error}); get the file again from its source"
