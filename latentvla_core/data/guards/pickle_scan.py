"""A pickle's opcodes walked before it is loaded: how deep it nests, how far it unfolds, what it
numbers.

The walk keeps the pickle machine's stack, with the depth and the unfolded size of every object in
place of the object. Loading runs the same opcodes in the same order, so what the walk has passed is
safe up to there; where the walk cannot go on, loading fails at the same opcode.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable

MOST_DEEP = 200
MOST_UNFOLDED = 2_000_000
"""Objects (and 8 bytes of text or numbers as one) that any file may unfold to; beside a few times
its size."""
SPARE = 8
LARGEST_INTEGER_B = 16
_MEMO_SPARE = 1000
_KEY_B = 4
_LARGEST_CUT_B = 1 << 24


class Excess(pickle.UnpicklingError):
    """The file would take more memory, time or stack than any honest one."""


class _Cell:
    """What stands on the stack for an object."""

    __slots__ = ("depth", "key", "size", "used")

    def __init__(self, depth: int = 0, size: int = 1, *, key: bool = True) -> None:
        self.depth, self.size, self.key = depth, size, key
        self.used = False
        """It lies in another object: what changes it now would change that one, unseen."""


_ATOM, _NO_KEY = _Cell(), _Cell(key=False)
_CODES = {op.name: ord(op.code) for op in pickletools.opcodes}
_FIXED: dict[int, int] = {}
"""Bytes of the argument, of opcodes that push an atom."""
_COUNTED: dict[int, int] = {}
"""Bytes of the argument's length, of opcodes that push text or bytes."""
_LINES: dict[int, int] = {}
for _name, _width in {
    "NONE": 0, "NEWTRUE": 0, "NEWFALSE": 0, "BININT": 4, "BININT1": 1, "BININT2": 2, "BINFLOAT": 8,
    "EXT1": 1, "EXT2": 2, "EXT4": 4, "NEXT_BUFFER": 0,
}.items():  # fmt: skip
    _FIXED[_CODES[_name]] = _width
for _name, _width in {
    "BINSTRING": 4, "SHORT_BINSTRING": 1, "BINBYTES": 4, "SHORT_BINBYTES": 1, "BINBYTES8": 8,
    "BINUNICODE": 4, "SHORT_BINUNICODE": 1, "BINUNICODE8": 8, "BYTEARRAY8": 8,
}.items():  # fmt: skip
    _COUNTED[_CODES[_name]] = _width
for _name, _number in {
    "INT": 1, "LONG": 1, "FLOAT": 1, "STRING": 1, "UNICODE": 1, "PERSID": 1, "GLOBAL": 2,
}.items():  # fmt: skip
    _LINES[_CODES[_name]] = _number
_MEMOIZE, _BINGET, _STOP = _CODES["MEMOIZE"], _CODES["BINGET"], _CODES["STOP"]
_SHORT = {_CODES[name] for name in ("SHORT_BINUNICODE", "SHORT_BINBYTES", "SHORT_BINSTRING")}
_SMALL = 64
"""Bytes of a text that count as one object."""
_INTEGERS = {_CODES["INT"], _CODES["LONG"]}
_FLOATS = {_CODES["FLOAT"], _CODES["BINFLOAT"]}


def check_pickle(data: bytes) -> None:
    """Raises Excess when loading `data` could cost more than a few times its size."""
    walk = _Walk(data)
    try:
        walk.run()
    except IndexError:
        return  # a stack that is empty, or the end of the file: loading says so at this very place


class _Walk:
    """The machine: a stack, the stacks below the marks, and the memo."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[_Cell] = []
        self.below: list[list[_Cell]] = []
        self.memo: dict[int, _Cell] = {}
        self.most = MOST_UNFOLDED + SPARE * len(data)

    def run(self) -> None:
        """Opcodes that make most of a log are done here, without a call each."""
        data, end, memo, actions = self.data, len(self.data), self.memo, _ACTIONS
        while True:
            code = data[self.at]
            self.at += 1
            if code == _MEMOIZE:
                memo[len(memo)] = self.stack[-1]
            elif code == _BINGET:
                self.stack.append(self._known(data[self.at]))
                self.at += 1
            elif code in _SHORT and self.at + 1 + data[self.at] < end and data[self.at] < _SMALL:
                self.at += 1 + data[self.at]
                self.stack.append(_ATOM)
            elif code in _FIXED:
                self.at += _FIXED[code]
                self.stack.append(_NO_KEY if code in _FLOATS else _ATOM)
            elif action := actions.get(code):
                action(self)
            elif code in _COUNTED:
                self._text(_COUNTED[code])
            elif code == _STOP:
                return
            elif code in _LINES:
                self._lines(code)
            else:
                raise IndexError("no opcode")

    def number(self, width: int) -> int:
        value = int.from_bytes(self.data[self.at : self.at + width], "little")
        self.at += width
        return value

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise IndexError("the file ends early")
        text, self.at = self.data[self.at : end], end + 1
        return text

    def _text(self, width: int) -> None:
        length = self.number(width)
        if self.at + length > len(self.data):
            if length > _LARGEST_CUT_B:  # memory that some opcodes take before they read
                raise Excess(f"it announces {length:,} bytes and has {len(self.data):,}")
            raise IndexError("the file ends early")
        self.at += length
        self.stack.append(_ATOM if length < _SMALL else _Cell(0, 1 + length // 8))

    def _lines(self, code: int) -> None:
        texts = [self.line() for _ in range(_LINES[code])]
        if code in _INTEGERS and len(texts[0]) > 3 * LARGEST_INTEGER_B:
            raise Excess(f"a number of {len(texts[0]):,} digits")
        self.stack.append(
            _NO_KEY if code in _INTEGERS | _FLOATS else _Cell(0, 1 + len(texts[0]) // 8)
        )

    def integer(self, width: int) -> None:
        length = self.number(width)
        if length > LARGEST_INTEGER_B:
            raise Excess(f"a number of {length:,} bytes")
        self.at += length
        self.stack.append(_ATOM if length <= _KEY_B else _NO_KEY)

    def items(self) -> list[_Cell]:
        """What lies above the last mark, which goes."""
        found, self.stack = self.stack, self.below.pop()
        return found

    def made_of(self, parts: list[_Cell], *, key: bool = False) -> None:
        cell = _Cell(0, 1, key=key)
        self._take(cell, parts)
        self.stack.append(cell)

    def into(self, parts: list[_Cell]) -> None:
        """Parts go into the object on the stack."""
        cell = self.stack[-1]
        if cell.used and parts:
            raise Excess("it changes an object that lies in another one already")
        if cell is _ATOM or cell is _NO_KEY:
            cell = self.stack[-1] = _Cell(key=cell.key)
        self._take(cell, parts)

    def _take(self, cell: _Cell, parts: list[_Cell]) -> None:
        depth, size = cell.depth, cell.size + len(parts)
        for part in parts:
            if part is not _ATOM and part is not _NO_KEY:
                part.used = True
                size += part.size - 1
                if part.depth >= depth:
                    depth = part.depth + 1
        cell.depth, cell.size = depth, size
        if depth > MOST_DEEP:
            raise Excess(f"it nests more than {MOST_DEEP} deep")
        if size > self.most:
            raise Excess(f"its {len(self.data):,} bytes unfold to more than {self.most:,} objects")

    def pairs_into(self, parts: list[_Cell]) -> None:
        keys(parts[::2])
        self.into(parts)

    def put(self, index: int) -> None:
        if index > len(self.memo) + _MEMO_SPARE + len(self.data) // 2:
            raise Excess(f"it numbers an object {index:,}, of {len(self.data):,} bytes")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self._known(index))

    def _known(self, index: int) -> _Cell:
        if index not in self.memo:
            raise IndexError("no such memo")
        return self.memo[index]

    def pop(self, count: int = 1) -> list[_Cell]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        found = self.stack[-count:]
        del self.stack[-count:]
        return found

    def discard(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.items()

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def skip(self, width: int) -> None:
        self.at += width


def keys(cells: list[_Cell]) -> None:
    """Keys are hashed: of numbers too many can be made to collide, tuples can be too deep."""
    if not all(cell.key for cell in cells):
        raise Excess("a key of a dict or set that is neither text nor a small number")


def _memo_number(text: bytes) -> int:
    if len(text) > 12 or not text.isdigit():
        raise IndexError("no memo number")
    return int(text)


def _set_items(walk: _Walk) -> None:
    parts = walk.items()
    keys(parts)
    walk.into(parts)


def _frozen(walk: _Walk) -> None:
    parts = walk.items()
    keys(parts)
    walk.made_of(parts)


def _dict(walk: _Walk) -> None:
    parts = walk.items()
    walk.made_of([])
    walk.pairs_into(parts)


def _instance(walk: _Walk) -> None:
    walk.line()
    walk.line()
    walk.made_of(walk.items(), key=True)


_NAMED: dict[str, Callable[[_Walk], object]] = {
    "PROTO": lambda w: w.skip(1), "FRAME": lambda w: w.skip(8), "MARK": _Walk.mark,
    "POP": _Walk.discard, "POP_MARK": _Walk.items, "DUP": lambda w: w.stack.append(w.stack[-1]),
    "LONG1": lambda w: w.integer(1), "LONG4": lambda w: w.integer(4),
    "EMPTY_LIST": lambda w: w.made_of([]), "EMPTY_DICT": lambda w: w.made_of([]),
    "EMPTY_SET": lambda w: w.made_of([]), "EMPTY_TUPLE": lambda w: w.made_of([]),
    "LIST": lambda w: w.made_of(w.items()), "TUPLE": lambda w: w.made_of(w.items()),
    "DICT": _dict,
    "TUPLE1": lambda w: w.made_of(w.pop(1)), "TUPLE2": lambda w: w.made_of(w.pop(2)),
    "TUPLE3": lambda w: w.made_of(w.pop(3)), "FROZENSET": _frozen, "ADDITEMS": _set_items,
    "APPEND": lambda w: w.into(w.pop(1)), "APPENDS": lambda w: w.into(w.items()),
    "SETITEM": lambda w: w.pairs_into(w.pop(2)), "SETITEMS": lambda w: w.pairs_into(w.items()),
    "BUILD": lambda w: w.into(w.pop(1)), "REDUCE": lambda w: w.made_of(w.pop(2), key=True),
    "NEWOBJ": lambda w: w.made_of(w.pop(2), key=True),
    "NEWOBJ_EX": lambda w: w.made_of(w.pop(3), key=True),
    "OBJ": lambda w: w.made_of(w.items(), key=True), "INST": _instance,
    "STACK_GLOBAL": lambda w: w.made_of(w.pop(2), key=True),
    "BINPERSID": lambda w: w.made_of(w.pop(1), key=True), "READONLY_BUFFER": lambda w: None,
    "BINPUT": lambda w: w.put(w.number(1)), "LONG_BINPUT": lambda w: w.put(w.number(4)),
    "PUT": lambda w: w.put(_memo_number(w.line())), "BINGET": lambda w: w.get(w.number(1)),
    "LONG_BINGET": lambda w: w.get(w.number(4)), "GET": lambda w: w.get(_memo_number(w.line())),
}  # fmt: skip

_ACTIONS = {_CODES[name]: action for name, action in _NAMED.items()}
