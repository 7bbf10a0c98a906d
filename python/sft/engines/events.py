"""TensorBoard's event files, written with Python's standard library alone.

A run writes them in every image and on every machine: torch.utils.tensorboard needs the package `tensorboard`, which
nemo-automodel 0.7.0 does not ask for. The format: tensorboard/compat/proto/{event,summary}.proto and, of the records,
tensorboard/summary/writer/record_writer.py (2.21.0). tests/engines/test_curves.py reads them with that tensorboard.
"""

import errno
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

START = 1  # of SessionLog.SessionStatus


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def _crc(data: bytes) -> bytes:
    """CRC-32C of `data`, masked, as a record holds it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, data: bytes) -> bytes:
    """A field of a message that is itself text or a message."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _event(step: int, what: bytes) -> bytes:
    """An Event, as a record: wall_time and step, then `what`."""
    data = b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + what
    length = struct.pack("<Q", len(data))
    return length + _crc(length) + data + _crc(data)


def _value(tag: str, value: float) -> bytes:
    """A Summary.Value. A number beyond a float's range becomes infinite."""
    try:
        number = struct.pack("<f", value)
    except OverflowError:
        number = struct.pack("<f", float("inf") if value > 0 else float("-inf"))
    return _field(1, _field(1, tag.encode()) + b"\x15" + number)


class EventFile:
    """A file of its own in `folder`, after those that are there: TensorBoard joins all of a folder to one curve.

    first: the step that comes first in it. What earlier files have of this step and later ones is thus withdrawn: a
    link that was killed trained them after its last checkpoint.
    """

    def __init__(self, folder: Path, first: int):
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads them by name, hence by this number; another node's clock may be ahead.
        before = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.[0-9]*")]
        number = max([int(time.time()), *(n + 1 for n in before)])
        self.path = folder / f"events.out.tfevents.{number:010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self.path, "xb", buffering=0)
        start = _field(7, b"\x08" + _varint(START))
        self._write(_event(0, _field(3, b"brain.Event:2")) + _event(first, start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step, by tag. Raises OSError, as for a full disk."""
        self._write(_event(step, _field(5, b"".join(_value(tag, value) for tag, value in values.items()))))

    def _write(self, data: bytes) -> None:
        """In one call, so that nothing waits in a buffer that a SIGKILL would take."""
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        self._file.close()
