"""Byte streams before Arrow's reader, which splits at one character and takes "007" for 7."""

import io
import re

import numpy as np
import pyarrow as pa

Source = pa.NativeFile | io.RawIOBase


class SingleSeparator(io.RawIOBase):
    """Every `::` becomes one character; no line moves."""

    MARK = "\x1f"  # ASCII's unit separator
    HELD = b":"  # what a block may not end in, as the separator may go on in the next

    def __init__(self, source: pa.NativeFile) -> None:
        self._source = source
        self._rest = b""
        self._ready = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._ready:
            self._ready = self._next(max(size, 1))
        block, self._ready = self._ready[:size], self._ready[size:]
        return block

    def _next(self, size: int) -> bytes:
        """What follows, translated; empty at the end. A run of separators may be longer than any block."""
        while True:
            block = self._source.read(max(size, len(self._rest)))  # twice as much each time: no run is slow
            text = self._rest + block
            whole = text.rstrip(self.HELD) if block else text
            self._rest = text[len(whole) :]
            if not block:
                return self.translate(whole) if whole else b""
            if whole and (translated := self.translate(whole)):
                return translated

    def translate(self, text: bytes) -> bytes:
        return self.without_mark(text).replace(b"::", b"\x1f")

    def without_mark(self, text: bytes) -> bytes:
        """The text itself. Raises ArrowInvalid where it has the character that is to separate fields."""
        if b"\x1f" in text:
            raise pa.ArrowInvalid("the file has a control character (hexadecimal 1f) that no log has")
        return text


class SqueezedBlanks(SingleSeparator):
    """Every run of spaces and tabs becomes one character, none at the edges of a line; no line moves."""

    HELD = b" \t\r\n"
    EDGES = re.compile(rb"[ \t]*(\r\n?|\n)[ \t]*|[ \t]+\Z")
    BLANKS = re.compile(rb"[ \t]+")
    _at_start = True

    def translate(self, text: bytes) -> bytes:
        if self._at_start:
            text, self._at_start = text.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t"), False
        text = self.without_mark(text)
        return self.BLANKS.sub(b"\x1f", self.EDGES.sub(rb"\1", text))


class QuoteCounter(io.RawIOBase):
    """Passes bytes on and counts quotation marks: an odd number says that one was left open."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.is_odd = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self._source.read(size) or b""
        self.is_odd ^= block.count(b'"') % 2 == 1
        return block


class PlainIntegers(io.RawIOBase):
    """Passes bytes on and raises ArrowInvalid at a number that an integer could not give back: 007, -0, 0x1F.

    Looks at all columns, so that it stops at some files whose ids are sound; they are read as text then.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._last = b"\n\n"

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self._source.read(size) or b""
        character = np.frombuffer(self._last + (block or b"\n"), dtype=np.uint8)
        zero = np.flatnonzero(character[1:-1] == ord("0"))
        before, after = character[zero], character[zero + 2]
        goes_on = _is_digit(before) | (before == ord(".")) | (before == ord(":"))
        is_hexadecimal = (after | 32) == ord("x")  # which Arrow reads
        is_negative = (before == ord("-")) & (after != ord("."))
        if np.any((_is_digit(after) | is_hexadecimal | is_negative) & ~goes_on):
            raise pa.ArrowInvalid("a number begins with 0")
        self._last = (self._last + block)[-2:]
        return block


def _is_digit(
    character: np.ndarray[tuple[int], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return (character >= ord("0")) & (character <= ord("9"))
