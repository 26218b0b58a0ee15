"""evio: a fast event loop for TCP and unix-socket servers. One function, four events."""

from . import resp
from ._decoders import FrameError
from ._engine import engine
from ._frames import Lines, Prefixed
from ._serve import serve
from ._wake import Wake

__all__ = ["FrameError", "Lines", "Prefixed", "Wake", "__version__", "engine", "resp", "serve"]

__version__: str = "0.1.0"
