"""How a jailed decoder's results travel: JSON for structure, shared memory for arrays.

A decoder that a hostile file has taken over must not be able to run code in the parent, so nothing
that it sends is unpickled: only JSON, and arrays of plain numbers whose place, type and shape are
checked before they are copied out of the shared memory.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from clinical_clip import errors
from clinical_clip.errors import DecoderFailed, ImageRejected, LimitExceeded

__all__ = ["pack", "pack_error", "unpack", "unpack_error"]

_ALIGNMENT = 64
_KINDS = "biuf"


def pack(result: object, slot: memoryview) -> bytes:
    """``result`` as JSON, with its arrays copied one after the other into ``slot``.

    ``result`` may be None, a bool, number or string, an array of plain numbers, or a tuple, list or
    dict with string keys of these.

    Raises:
        LimitExceeded: the arrays do not fit.
        TypeError: something else.
    """
    used = 0

    def walk(value: object) -> object:
        nonlocal used
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray):
            offset = -(-used // _ALIGNMENT) * _ALIGNMENT
            if value.dtype.kind not in _KINDS:
                raise TypeError(f"arrays of {value.dtype} do not travel")
            if offset + value.nbytes > len(slot):
                raise LimitExceeded("decoded image is larger than allowed", hint="raise max_pixels")
            used = offset + value.nbytes
            np.ndarray(value.shape, value.dtype, slot, offset)[...] = value
            return {"array": [offset, value.dtype.str, list(value.shape)]}
        if isinstance(value, tuple):
            return {"tuple": [walk(part) for part in value]}
        if isinstance(value, list):
            return [walk(part) for part in value]
        if isinstance(value, dict):
            return {"dict": {str(key): walk(part) for key, part in value.items()}}
        raise TypeError(f"{type(value).__name__} does not travel")

    return json.dumps({"result": walk(result), "used": used}).encode()


def unpack(reply: dict[str, Any], slot: memoryview) -> object:
    """What ``pack`` was given; arrays are copies, free of the slot.

    Raises:
        DecoderFailed: the message is not one that ``pack`` makes.
    """

    def walk(value: Any) -> object:
        if not isinstance(value, dict):
            return [walk(part) for part in value] if isinstance(value, list) else value
        ((kind, content),) = value.items()
        if kind == "tuple":
            return tuple(walk(part) for part in content)
        if kind == "dict":
            return {str(key): walk(part) for key, part in content.items()}
        if kind != "array":
            raise ValueError(kind)
        offset, code, shape = content
        dtype = np.dtype(str(code))
        size = math.prod(int(side) for side in shape) * dtype.itemsize
        if dtype.kind not in _KINDS or min([offset, *shape]) < 0 or offset + size > len(slot):
            raise ValueError(code)
        return np.ndarray(tuple(shape), dtype, slot, offset).copy()

    try:
        return walk(reply["result"])
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        raise DecoderFailed("decoder sent an answer that makes no sense", hint="check the file") from None


def pack_error(error: ImageRejected) -> bytes:
    """A rejection as JSON."""
    return json.dumps({"error": [type(error).__name__, error.what, error.where, error.hint]}).encode()


def unpack_error(reply: dict[str, Any]) -> ImageRejected:
    """The rejection that ``pack_error`` was given; ``DecoderFailed`` where it is none."""
    try:
        name, what, where, hint = (str(part)[:2000] for part in reply["error"])
        kind: type[ImageRejected] = getattr(errors, name)
        if issubclass(kind, ImageRejected):
            return kind(what, where=where, hint=hint)
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    return DecoderFailed("decoder sent an answer that makes no sense", hint="check the file")
