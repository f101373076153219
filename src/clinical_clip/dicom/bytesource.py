"""Reading a file piece by piece, so that a lying length costs nothing."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import CorruptImage, LimitExceeded

__all__ = ["ByteSource", "inflate"]

_HEAD_BYTES = 1 << 16
_STEP_BYTES = 1 << 20


class ByteSource:
    """Bytes at an offset, of a file or of memory. Never more than there are; safe across threads.

    Attributes:
        size: bytes in all.
        name: last component of the path, for error messages.
    """

    def __init__(self, name: str, *, fd: int = -1, data: bytes | bytearray = b"") -> None:
        self.name = name
        self._fd = fd
        self.size = os.fstat(fd).st_size if fd >= 0 else len(data)
        self._head: bytes | bytearray | memoryview = (
            os.pread(fd, _HEAD_BYTES, 0) if fd >= 0 else memoryview(data)
        )

    @classmethod
    def open(cls, path: Path, limits: Limits) -> ByteSource:
        """The file at ``path``.

        Raises:
            CorruptImage: it is no regular file, empty or unreadable.
            LimitExceeded: it is larger than ``max_file_bytes``.
        """
        if not path.is_file():  # opening a pipe or a device could wait forever
            raise CorruptImage("no such file", where=path.name, hint="check the path")
        try:
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise CorruptImage(
                f"cannot be opened ({type(error).__name__})", where=path.name, hint="check its permissions"
            ) from None
        source = cls(path.name, fd=fd)
        if source.size == 0:
            raise CorruptImage("empty file", where=path.name, hint="fetch it again")
        if source.size > limits.max_file_bytes:
            raise LimitExceeded(
                f"file has {source.size:,} bytes", where=path.name, hint="raise max_file_bytes"
            )
        return source

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``; fewer where the source ends before."""
        length = max(0, min(length, self.size - offset))
        if offset + length <= len(self._head):
            return bytes(self._head[offset : offset + length])
        pieces = bytearray()
        while len(pieces) < length:  # a pread gives at most 2 GiB
            piece = os.pread(self._fd, length - len(pieces), offset + len(pieces))
            if not piece:
                break
            if len(piece) == length:
                return piece
            pieces += piece
        return bytes(pieces)

    def exactly(self, offset: int, length: int, what: str) -> bytes:
        """``length`` bytes at ``offset``.

        Raises:
            CorruptImage: the source ends before.
        """
        if length < 0 or offset < 0 or offset + length > self.size:
            raise CorruptImage(f"file ends within {what}", where=self.name, hint="fetch it again")
        data = self.read(offset, length)
        if len(data) != length:
            raise CorruptImage(f"file ends within {what}", where=self.name, hint="fetch it again")
        return data

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def inflate(source: ByteSource, start: int, limits: Limits) -> ByteSource:
    """The deflated data set from ``start`` on (PS3.5 A.5), inflated under a cap.

    Raises:
        LimitExceeded: it inflates to more than ``max_inflated_bytes``.
        CorruptImage: it does not inflate.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    output = bytearray()
    at = start
    try:
        while not inflater.eof:
            block = inflater.unconsumed_tail or source.read(at, _HEAD_BYTES)
            if not inflater.unconsumed_tail:
                at += len(block)
            if not block:
                raise CorruptImage("deflated data set is cut off", where=source.name, hint="fetch it again")
            output += inflater.decompress(block, _STEP_BYTES)
            if len(output) > limits.max_inflated_bytes:
                raise LimitExceeded(
                    f"inflates to more than {limits.max_inflated_bytes:,} bytes",
                    where=source.name,
                    hint="raise max_inflated_bytes if the file is trusted",
                )
    except zlib.error:
        raise CorruptImage("deflated data set is damaged", where=source.name, hint="fetch it again") from None
    return ByteSource(source.name, data=output)
