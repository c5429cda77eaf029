"""What the page shows and hands back, kept in memory under names that nobody can guess.

A picture that was dropped, a result, an animation: each gets 128 random bits as its name, so that one session cannot
see another's, and no name is ever a path. The shelf holds so many bytes; what was not used for longest drops out.
"""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jeppa.data.decode import Pixels

if TYPE_CHECKING:
    from jeppa.pipeline import Look

CAPACITY = 512 * 2**20


@dataclass
class Kept:
    """One thing on the shelf.

    Args:
        content: a file to serve, empty where there is none.
        media: its media type.
        name: what the browser calls it when it is saved.
        pixels: a picture as uint8 `[H,W,3]`, for the actions of the page.
        look: a reconstruction with its sigma, for the readout.
        settings: that came in the PNG, empty for none.
    """

    content: bytes = b""
    media: str = "image/png"
    name: str = "picture.png"
    pixels: Pixels | None = None
    look: "Look | None" = None
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        arrays: list[Any] = [self.pixels]
        if self.look is not None:
            arrays += [self.look.mean, self.look.sigma]
        return len(self.content) + sum(int(one.nbytes) for one in arrays if one is not None)


class Shelf:
    """Holds at most `capacity` bytes; the longest unused drops out first. Safe among threads."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def put(self, kept: Kept) -> str:
        """Keep it; returns its name."""
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[token] = kept
            self._size += kept.size
            while self._size > self._capacity and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._size -= dropped.size
        return token

    def get(self, token: str) -> Kept | None:
        """What is kept under that name, or None."""
        with self._lock:
            if token in self._kept:
                self._kept.move_to_end(token)
            return self._kept.get(token)

    def size(self) -> int:
        """Bytes kept."""
        with self._lock:
            return self._size
