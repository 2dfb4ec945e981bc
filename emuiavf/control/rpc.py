"""JSON-RPC 2.0, sans-IO: the bytes of one request go in, those of its answer come out.

Knows the table of methods, not what they do.  Bytes may be anything; what they cost is bounded by
their size.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from emuiavf.control.methods import METHODS, Method, Words
from emuiavf.errors import EmuIavfError

MAX_REQUEST = 1 << 16
MAX_BATCH = 64

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
INTERNAL_ERROR, REFUSED = -32603, -32000

# What decoding may raise: nested too deep, not UTF-8, not JSON, of the wrong shape.
_BAD = (msgspec.MsgspecError, ValueError, RecursionError)

Call = Callable[[Method, Any], Any]
Id = str | int | float | None


class _Request(Struct):
    jsonrpc: Literal["2.0"]
    method: str
    params: Raw | UnsetType = UNSET
    id: Id | UnsetType = UNSET


class _HasId(Struct):
    id: Id = None


class RpcError(Exception):
    """A request that fails with this code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def respond(data: bytes, call: Call) -> bytes:
    """The answer to one request or batch; empty for notifications.

    `call` carries a method out and raises an error of ours where it refuses.
    """
    try:
        if not isinstance(msgspec.json.decode(data), list):
            return _respond_one(Raw(data), call)
        batch = msgspec.json.decode(data, type=list[Raw])
    except _BAD as error:
        return _error(None, PARSE_ERROR, f"not JSON: {error}")
    if not 1 <= len(batch) <= MAX_BATCH:
        return _error(None, INVALID_REQUEST, f"a batch of {len(batch)}: 1 to {MAX_BATCH}")
    answers = [answer for one in batch if (answer := _respond_one(one, call))]
    return b"[" + b",".join(answers) + b"]" if answers else b""


def request(method: str, params: Struct, number: int) -> bytes:
    """The bytes of a request."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def parse_params(method: Method, raw: Raw | UnsetType) -> Words:
    """Parameters by name or by place; RpcError names what is wrong with them."""
    try:
        values = {} if raw is UNSET else msgspec.json.decode(raw)
        if isinstance(values, list):
            names = method.params.__struct_encode_fields__
            if len(values) > len(names):
                raise RpcError(INVALID_PARAMS, f"{len(values)} parameters: at most {len(names)}")
            values = dict(zip(names, values, strict=False))
        return msgspec.convert(values, method.params)
    except _BAD as error:
        raise RpcError(INVALID_PARAMS, str(error)) from None


def _respond_one(raw: Raw, call: Call) -> bytes:
    try:
        asked = msgspec.json.decode(raw, type=_Request)
    except _BAD as error:
        return _error(_id_of(raw), INVALID_REQUEST, f"not a request: {error}")
    try:
        result = _carry_out(asked, call)
    except RpcError as error:
        return b"" if asked.id is UNSET else _error(asked.id, error.code, str(error))
    if asked.id is UNSET:
        return b""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": asked.id, "result": result})


def _carry_out(asked: _Request, call: Call) -> Any:
    method = METHODS.get(asked.method)
    if method is None:
        raise RpcError(METHOD_NOT_FOUND, f"no method {asked.method[:64]!r}")
    params = parse_params(method, asked.params)
    try:
        return call(method, params)
    except EmuIavfError as error:
        raise RpcError(REFUSED, str(error)) from None


def _id_of(raw: Raw) -> Id:
    """The id of what is no request, if it has one."""
    try:
        return msgspec.json.decode(raw, type=_HasId).id
    except _BAD:
        return None


def error_line(code: int, text: str) -> bytes:
    """An error that belongs to no request."""
    return _error(None, code, text)


def _error(number: Id, code: int, text: str) -> bytes:
    error = {"code": code, "message": text}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": number, "error": error})
