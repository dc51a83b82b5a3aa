"""The `data.pkl` of a .pth file, read by a machine that knows only the instructions torch needs for a dict of tensors.

`pickle.Unpickler` is not used, not even a restricted one: one five-byte instruction makes it fill gigabytes (the memo
is an array), nested tuples as keys take for ever to hash, and BUILD writes into whatever `find_class` returned.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple, cast

from cortexd.checkpoints.problem import damaged, quoted, unsupported
from cortexd.errors import UnsupportedCheckpoint

_MAX_INSTRUCTIONS = 1_000_000  # a state dict takes about 40 a tensor

STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


class Storage(NamedTuple):
    """Where the numbers of one or more tensors lie: the archive's member `data/KEY`."""

    dtype: str
    key: str
    elements: int


class PickledTensor(NamedTuple):
    """A view on a storage; `offset` and `strides` in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Global(NamedTuple):
    module: str
    name: str


_KNOWN = {_Global("torch", name) for name in STORAGES} | {
    _Global("collections", "OrderedDict"),
    _Global("torch._utils", "_rebuild_tensor_v2"),
    _Global("torch._utils", "_rebuild_parameter"),
}


def read_state_pickle(data: bytes, file: str) -> dict[str, PickledTensor]:
    """The tensors of a plain state dict; scalars beside them are left out."""
    try:
        state = _Machine(data, file).run()
    except (_Malformed, IndexError, KeyError, struct.error, UnicodeDecodeError):
        raise damaged(file, "its list of tensors cannot be read") from None
    if not isinstance(state, dict):
        raise unsupported(file, "does not hold a dict of tensors; save the model's state_dict()")
    tensors: dict[str, PickledTensor] = {}
    for key, value in cast("dict[str | int, object]", state).items():
        if isinstance(value, PickledTensor):
            tensors[str(key)] = value
        elif isinstance(value, (dict, list)):
            raise unsupported(
                file, f"holds more than tensors under {quoted(str(key))}; save the model's state_dict() alone"
            )
    return tensors


class _Malformed(Exception):
    """No program that torch writes; the file is damaged."""


_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_PUTS = {b"q": "<B", b"r": "<I"}
_GETS = {b"h": "<B", b"j": "<I"}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}


class _Machine:
    """The stack machine of pickle's protocol 2, less all that could import, call or build anything."""

    def __init__(self, data: bytes, file: str) -> None:
        self._data = data
        self._file = file
        self._at = 0
        self._stack: list[object] = []
        self._outer: list[list[object]] = []  # the stack below each open mark
        self._memo: dict[int, object] = {}
        self._instructions: dict[bytes, Callable[[], None]] = {
            b"\x80": lambda: self._drop(1),  # the protocol's number
            b"(": self._mark,
            b"}": lambda: self._stack.append({}),
            b"]": lambda: self._stack.append([]),
            b"t": self._close_tuple,
            b"X": self._text,
            b"\x8a": self._long,
            b"c": self._global,
            b"Q": self._storage,
            b"R": self._call,
            b"b": self._build,
            b"s": self._set_one,
            b"u": lambda: self._set(self._pop_to_mark()),
            b"a": lambda: self._append([self._stack.pop()]),
            b"e": lambda: self._append(self._pop_to_mark()),
        }

    def run(self) -> object:
        for _ in range(_MAX_INSTRUCTIONS):
            code = self._read(1)
            if code == b".":
                return self._stack.pop()
            if code in _NUMBERS:
                self._stack.append(self._number(_NUMBERS[code]))
            elif code in _PUTS:
                self._memo[self._number(_PUTS[code])] = self._stack[-1]
            elif code in _GETS:
                self._stack.append(self._memo[self._number(_GETS[code])])
            elif code in _TUPLES:
                self._tuple(_TUPLES[code])
            elif code in _CONSTANTS:
                self._stack.append(_CONSTANTS[code])
            elif code in self._instructions:
                self._instructions[code]()
            else:
                raise self._foreign(f"the pickle instruction {code!r}")
        raise unsupported(self._file, "has an index with more entries than any RWKV model; use the original checkpoint")

    def _foreign(self, what: str) -> UnsupportedCheckpoint:
        return unsupported(
            self._file,
            f"was not read because it needs {what}, which a file of plain tensors does not; if you trust it, rewrite it "
            "where it came from with torch.save(torch.load(file, weights_only=True), file)",
        )

    def _read(self, count: int) -> bytes:
        data = self._data[self._at : self._at + count]
        if len(data) < count:
            raise _Malformed
        self._at += count
        return data

    def _drop(self, count: int) -> None:
        self._read(count)

    def _read_line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 256)
        if end < 0:
            raise _Malformed
        line = self._data[self._at : end].decode()
        self._at = end + 1
        return line

    def _number(self, format: str) -> int:
        return struct.unpack(format, self._read(struct.calcsize(format)))[0]

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise _Malformed
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _close_tuple(self) -> None:
        items = self._pop_to_mark()
        self._stack.append(tuple(items))

    def _mark(self) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[object]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _text(self) -> None:
        self._stack.append(self._read(self._number("<I")).decode())

    def _long(self) -> None:
        self._stack.append(int.from_bytes(self._read(self._number("<B")), "little", signed=True))

    def _global(self) -> None:
        found = _Global(self._read_line(), self._read_line())
        if found not in _KNOWN:
            raise self._foreign(quoted(f"{found.module}.{found.name}"))
        self._stack.append(found)

    def _storage(self) -> None:
        match self._stack.pop():
            case ("storage", _Global("torch", kind), str(key), str(), int(elements)) if elements >= 0:
                self._stack.append(Storage(STORAGES[kind], key, elements))
            case _:
                raise _Malformed

    def _call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        match function, arguments:
            case _Global("collections", _), ():
                self._stack.append({})
            case _Global(_, "_rebuild_parameter"), tuple():
                self._stack.append(_first_tensor(cast("tuple[object, ...]", arguments)))
            case _Global(_, "_rebuild_tensor_v2"), tuple():
                self._stack.append(_tensor(cast("tuple[object, ...]", arguments)))
            case _:
                raise _Malformed

    def _build(self) -> None:
        # What a module's state_dict() has beside its tensors is the versions of its parts.
        self._stack.pop()
        self._top_dict()

    def _top_dict(self) -> dict[object, object]:
        if not isinstance(self._stack[-1], dict):
            raise _Malformed
        return cast("dict[object, object]", self._stack[-1])

    def _set(self, items: list[object]) -> None:
        target = self._top_dict()
        if len(items) % 2:
            raise _Malformed
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise _Malformed
            target[key] = value

    def _set_one(self) -> None:
        items = [self._stack.pop(), self._stack.pop()]
        self._set(items[::-1])

    def _append(self, items: list[object]) -> None:
        if not isinstance(self._stack[-1], list):
            raise _Malformed
        cast("list[object]", self._stack[-1]).extend(items)


def _first_tensor(arguments: tuple[object, ...]) -> PickledTensor:
    if not arguments or not isinstance(arguments[0], PickledTensor):
        raise _Malformed
    return arguments[0]


def _tensor(arguments: tuple[object, ...]) -> PickledTensor:
    if len(arguments) < 4:
        raise _Malformed
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or not isinstance(offset, int):
        raise _Malformed
    return PickledTensor(storage, offset, _integers(shape), _integers(strides))


def _integers(values: object) -> tuple[int, ...]:
    items = cast("tuple[object, ...]", values) if isinstance(values, tuple) else (values,)
    integers = tuple(item for item in items if isinstance(item, int))
    if len(integers) < len(items):
        raise _Malformed
    return integers
