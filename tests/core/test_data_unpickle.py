"""Nothing in a pickle runs: crafted files try the known ways in, and a canary shows that none was
taken.
"""

from __future__ import annotations

import builtins
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navsim_files import log_frames

from latentvla_core.data import unpickle
from latentvla_core.data.unpickle import ALLOWED, Inert, PickleKind, loads
from latentvla_core.errors import DataError

CANARY: list[str] = []


def sing(*_: Any) -> str:
    CANARY.append("sung")
    return "token"


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _array_of(value: Any) -> np.ndarray:
    array = np.empty(2, dtype=object)
    array[:] = [value, 1]
    return array


def _evil(tmp_path: Path) -> dict[str, Any]:
    mark = f"touch {tmp_path / 'canary'}"
    return {
        "os.system": Calls(os.system, mark),
        "eval": Calls(eval, f"__import__('os').system({mark!r})"),
        "exec": Calls(exec, f"import os; os.system({mark!r})"),
        "getattr": Calls(getattr, "text", "upper"),
        "import": Calls(builtins.__import__, "this"),
        "open": Calls(open, str(tmp_path / "canary"), "w"),
        "popen": Calls(subprocess.Popen, ["touch", str(tmp_path / "canary")]),
        "our own function": Calls(sing),
        "numpy's loader": Calls(np.load, "x.npy", None, True),
        "numpy's testing": Calls(np.testing.assert_equal, 1, 1),
        "pickle itself": Calls(pickle.loads, pickle.dumps(Calls(os.system, mark))),
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", list(PickleKind))
def test_foreign_names_are_refused_with_their_name_and_never_run(
    tmp_path: Path, kind: PickleKind, protocol: int
) -> None:
    for name, evil in _evil(tmp_path).items():
        frames = log_frames(1)
        for hidden in (
            evil,
            {"token": evil},
            [{**frames[0], "token": evil}],
            _array_of(evil),
            {evil.call[0]: 1},
        ):
            with pytest.raises(
                DataError, match=r"evil\.pkl: refused: the file asks for .*Nothing of it was run"
            ) as caught:
                loads(pickle.dumps(hidden, protocol), kind, file="evil.pkl")
            function = evil.call[0]
            assert function.__name__ in str(caught.value), name
    assert CANARY == []
    assert not (tmp_path / "canary").exists()


def test_an_object_array_of_plain_values_is_fine() -> None:
    for protocol in (2, 4, 5):
        data = pickle.dumps(_array_of("vehicle"), protocol)
        assert loads(data, PickleKind.LOG, file="a").tolist() == ["vehicle", 1]


def test_names_of_one_kind_of_file_are_refused_in_another() -> None:
    data = b"cnavsim.common.dataclasses\nTrajectory\n)\x81."
    assert isinstance(loads(data, PickleKind.SUBMISSION, file="a"), Inert)
    for kind in (PickleKind.LOG, PickleKind.SYNTHETIC_SCENE):
        with pytest.raises(
            DataError,
            match=r"navsim\.common\.dataclasses\.Trajectory, which a (log|synthetic scene) has",
        ):
            loads(data, kind, file="a")


def test_dotted_names_do_not_reach_through_allowed_modules() -> None:
    for module, name in (
        ("numpy", "ndarray.__reduce__"),
        ("numpy.core.multiarray", "sys.modules"),
        ("numpy", "dtype.mro"),
    ):
        data = pickle.PROTO + b"\x04" + _text(module) + _text(name) + pickle.STACK_GLOBAL + b"."
        with pytest.raises(DataError, match="refused"):
            loads(data, PickleKind.LOG, file="a")


def _text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def _built(base: bytes, state: Any) -> bytes:
    """`base` leaves an object on the stack; BUILD gives it a state."""
    return pickle.PROTO + b"\x04" + base + pickle.dumps(state, 0)[:-1] + b"b."


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + pickle.STACK_GLOBAL


@pytest.mark.parametrize(
    "state", [{"_function": 1}, (None, {"_function": 1}), (None, {"__setstate__": 1})]
)
def test_loader_functions_and_classes_cannot_be_altered(state: Any) -> None:
    for kind, names in ALLOWED.items():
        for module, name in names:
            with pytest.raises(DataError):
                loads(_built(_global(module, name), state), kind, file="a")
    frames = loads(pickle.dumps(log_frames(1)), PickleKind.LOG, file="a")  # and still work
    assert frames[0]["anns"]["gt_boxes"].shape == (2, 7)


def _raw_array(dtype: str, shape: tuple[int, ...], data: Any) -> bytes:
    """An array as protocol 2 builds it, with a state of our choice; protocol 0 spells the dtype by
    itself.
    """
    reconstruct = (
        pickle.PROTO
        + b"\x04"
        + _global("numpy.core.multiarray", "_reconstruct")
        + _global("numpy", "ndarray")
    )
    made = reconstruct + b"(K\x00tC\x01b\x87R"
    kind = _global("numpy", "dtype") + _text(dtype) + b"\x89\x88\x87R"
    parts = b"K\x01" + pickle.dumps(shape, 4)[2:-1] + kind + b"\x89" + pickle.dumps(data, 3)[2:-1]
    return made + b"(" + parts + b"tb."


def test_the_crafted_array_is_a_working_one_when_its_state_is_honest() -> None:
    data = np.arange(3.0).tobytes()
    np.testing.assert_array_equal(
        loads(_raw_array("<f8", (3,), data), PickleKind.LOG, file="a"), [0, 1, 2]
    )


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("<f8", (1000,), b"\x00" * 8),  # reads beyond its bytes
        ("<f8", (-1,), b""),
        ("O", (1,), b"\x41" * 8),  # a pointer from the file
        ("<f8", (1,), [1.0]),
        ("V8", (1,), b"\x00" * 8),
        ("<M8[us]", (1,), b"\x00" * 8),
        ("f8,O", (1,), b"\x00" * 16),
        ("(2,)f8", (1,), b"\x00" * 16),
        ("<U1", (1,), b"\xff" * 4),  # a code point that does not exist
        (">U1", (1,), b"\x00\x11\x00\x00"),
    ],
)
def test_arrays_whose_state_does_not_fit_are_refused(
    dtype: str, shape: tuple[int, ...], data: Any
) -> None:
    with pytest.raises(DataError, match="refused"):
        loads(_raw_array(dtype, shape, data), PickleKind.LOG, file="a")


@pytest.mark.parametrize(
    "state",
    [
        (3, "<", None, ("a",), {"a": (1, 0)}, 8, 1, 0),
        (3, "<", (1, (2,)), None, None, 8, 1, 0),
        (3, "x", None, None, None, -1, -1, 0),
        (3,),
        "text",
    ],
)
def test_array_types_with_an_unusual_state_are_refused(state: Any) -> None:
    made = _global("numpy", "dtype") + _text("f8") + b"\x89\x88\x87R"
    with pytest.raises(DataError):
        loads(_built(made, state), PickleKind.LOG, file="a")


def test_other_codecs_persistent_ids_and_extensions_are_refused() -> None:
    encode = pickle.PROTO + b"\x04" + _global("_codecs", "encode")
    with pytest.raises(DataError, match="text codec 'zlib'"):
        loads(encode + _text("x") + _text("zlib") + b"\x86R.", PickleKind.LOG, file="a")
    with pytest.raises(DataError, match="outside itself"):
        loads(b"Phere\n.", PickleKind.LOG, file="a")
    with pytest.raises(DataError):
        loads(b"\x82\x01.", PickleKind.LOG, file="a")
    with pytest.raises(DataError, match=r"posix\.system"):
        loads(
            b"(S'true'\niposix\nsystem\n.", PickleKind.LOG, file="a"
        )  # INST, of the first protocol
    with pytest.raises(DataError, match="may only name"):
        loads(
            pickle.PROTO + b"\x04" + _global("numpy", "ndarray") + b"(K\x05tR.",
            PickleKind.LOG,
            file="a",
        )


@pytest.mark.parametrize(
    "data", [b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".", b"\x80\x63.", b"0.", b"\xff" * 40]
)
def test_broken_streams_give_one_typed_error(data: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.pkl"):
        loads(data, PickleKind.LOG, file="a.pkl")


@pytest.mark.parametrize("prefix", ["numpy.core", "numpy._core"])
def test_files_of_numpy_1_and_2_read_the_same(prefix: str) -> None:
    for protocol in (4, 5):
        value = {
            "box": np.arange(6.0).reshape(2, 3),
            "name": np.array(["a", "bc"]),
            "n": np.float64(2.5),
            "i": np.int64(3),
        }
        value |= {
            "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
            "big": np.array([1, 2], ">i4"),
        }
        data = pickle.dumps(value, protocol)
        other = "numpy._core" if prefix == "numpy.core" else "numpy.core"
        for module in ("multiarray", "numeric"):
            data = data.replace(_text(f"{other}.{module}"), _text(f"{prefix}.{module}"))
        assert data.count(f"{prefix}.".encode()) >= 1
        back = loads(_without_frames(data), PickleKind.LOG, file="a")
        for key in ("box", "name", "columns", "big"):
            np.testing.assert_array_equal(back[key], value[key])
        assert (back["n"], back["i"]) == (2.5, 3)


def _without_frames(data: bytes) -> bytes:
    """Frame lengths of protocol 4+ no longer hold after an edit; frames are optional, so drop them."""
    import pickletools

    ops = list(pickletools.genops(data))
    ends = [position for _, _, position in ops[1:]] + [len(data)]
    return b"".join(
        data[p:e]
        for (op, _, p), e in zip(ops, ends, strict=True)
        if op.name != "FRAME" and p is not None
    )


def test_inert_records_answer_with_and_without_underscore() -> None:
    data = (
        pickle.PROTO
        + b"\x04"
        + _global("nuplan.common.actor_state.state_representation", "StateSE2")
        + b")\x81"
    )
    slots = (None, {"_x": 1.0, "heading": 2.0})
    state = loads(data + pickle.dumps(slots, 4)[2:-1] + b"b.", PickleKind.SYNTHETIC_SCENE, file="a")
    assert (state.get("x"), state.get("heading")) == (1.0, 2.0)
    with pytest.raises(KeyError):
        state.get("y")


def test_reading_needs_neither_navsim_nor_nuplan() -> None:
    assert "navsim" not in sys.modules
    assert not [name for name in sys.modules if name.startswith("nuplan")]
    assert unpickle.SAFE_KINDS == "biufSU"
