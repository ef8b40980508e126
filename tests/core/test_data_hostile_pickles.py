"""Pickles of a few hundred bytes that would take gigabytes, minutes or the stack end in a typed
error; honest files of every protocol pass.
"""

from __future__ import annotations

import pickle
import resource

import numpy as np
import pytest

from latentvla_core.data.guards.pickle_scan import Excess, check_pickle
from latentvla_core.data.navsim import read_log_slots
from latentvla_core.data.unpickle import PickleKind, loads
from latentvla_core.errors import DataError


def laughs(levels: int) -> bytes:
    """Lists of ten references each: 10**levels objects when unfolded."""
    thing: list[object] = ["ha"] * 10
    for _ in range(levels):
        thing = [thing] * 10
    return pickle.dumps([{"token": thing}])


MILLION = 1_000_000
HOSTILE = {
    "unfolds to gigabytes": laughs(9),
    "a million tuples deep": b"\x80\x04)" + b"\x85" * MILLION + b".",
    "a key a million tuples deep": b"\x80\x04})" + b"\x85" * MILLION + b"Ns.",
    "a million lists deep, opened from outside": b"\x80\x04" + b"](" * MILLION + b"e" * MILLION + b".",
    "nests through the memo": b"\x80\x04]\x94" + b"".join(
        b"]r" + (i + 1).to_bytes(4, "little") + b"j" + i.to_bytes(4, "little") + b"a0"
        for i in range(2000)) + b"N.",
    "grows what lies in another": b"\x80\x04]q\x00]q\x01h\x00h\x01a0h\x01]a.",
    "a number of 4 300 digits and more": b"\x80\x04\x8b" + (5000).to_bytes(4, "little") + b"\x7f" * 5000 + b".",
    "a number of 5 000 digits as text": b"I" + b"7" * 5000 + b"\n.",
    "a memo index of gigabytes": b"\x80\x04Nr\xff\xff\xff\xf0.",
    "a byte array of gigabytes": b"\x80\x05\x96" + (1 << 35).to_bytes(8, "little") + b"x.",
    "numbers that collide as keys": pickle.dumps({(2**61 - 1) * k: 0 for k in range(1, 2000)}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_costs_more_than_any_honest_one_is_refused_before_it_is_loaded(
    name, tmp_path
):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / "log.pkl").write_bytes(HOSTILE[name])
    slots, faults = read_log_slots(tmp_path / "log.pkl")
    assert not slots and "log.pkl" in str(faults[0]) and len(str(faults[0])) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize("protocol", range(6))
def test_honest_files_pass_in_every_protocol(protocol):
    shared = np.arange(9.0).reshape(3, 3)
    log = [
        {"token": f"{i:016x}", "cams": {"CAM_F0": {"k": shared}}, "n": -(2**40), "t": (1, 2.5, None),
         "names": ["vehicle"] * 40, "u": np.array(["a", "b"]), "big": list(range(3000))}
        for i in range(40)
    ]  # fmt: skip
    back = loads(pickle.dumps(log, protocol), PickleKind.LOG, file="log.pkl")
    assert len(back) == 40 and back[3]["token"] == f"{3:016x}" and back[7]["n"] == -(2**40)
    assert np.array_equal(back[9]["cams"]["CAM_F0"]["k"], shared)


def test_depth_and_size_are_those_of_the_object():
    deep: list[object] = []
    for _ in range(150):
        deep = [deep]
    check_pickle(pickle.dumps(deep))
    for _ in range(100):
        deep = [deep]
    with pytest.raises(Excess, match="200 deep"):
        check_pickle(pickle.dumps(deep))


def test_an_array_of_odd_type_or_an_enum_out_of_range_is_refused():
    class Odd:
        def __reduce__(self):
            return np.dtype, ("f4," * 1000,)

    with pytest.raises(DataError, match="plain number or text"):
        loads(pickle.dumps(Odd()), PickleKind.LOG, file="log.pkl")


def test_random_damage_of_an_honest_file_is_typed():
    rng = np.random.default_rng(0)
    honest = pickle.dumps([{"token": "a" * 16, "ego": np.arange(4.0), "names": ["x", "y"]}] * 5)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        data = bytearray(honest)
        for at in rng.integers(0, len(data), rng.integers(1, 5)):
            data[at] = rng.integers(0, 256)
        try:
            loads(bytes(data), PickleKind.LOG, file="log.pkl")
            outcomes["read"] += 1
        except DataError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 50, outcomes
