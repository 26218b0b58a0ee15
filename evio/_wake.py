"""`Wake`, the public type: what the wakes of both engines promise. Each engine has its own subclass."""

from __future__ import annotations

from typing import Never, NoReturn, Protocol, Self, overload


class BytesLike(Protocol):
    """An object with a buffer: `collections.abc.Buffer`, which Python has from 3.12 on."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class Wake:
    """Wakes one connection, from any thread, at any time. `accept` is given one for each client.

    Keeping a wake keeps neither the server nor its ctx alive. It can be hashed and weakly
    referenced; it cannot be pickled, copied or made by hand.
    """

    __slots__ = ()

    @overload  # neither can be called: so a type checker says no as well
    def __new__(cls, by_hand: Never, /, *args: Never) -> Self: ...
    @overload
    def __new__(cls, *, by_hand: Never, **kwargs: Never) -> Self: ...
    def __new__(cls, *args: object, **kwargs: object) -> Self:
        raise TypeError("evio.Wake cannot be made by hand: accept() is given one for each connection")

    @property
    def id(self) -> int:
        """The connection's id, as the callbacks are given it."""
        raise NotImplementedError

    def __call__(self, data: BytesLike | None = None, /) -> bool:
        """Call `handle(id, b"", ctx)` soon, or with `data` send that and call nothing.

        Never blocks on input or output, and never raises because the connection has gone.

        Args:
            data: what to send, bytes-like, of any length. Pieces are sent in the order of the
                calls. Without it `handle` runs at least once after this call; calls that come
                close together may share one run.

        Returns:
            True where the connection was still open, and False where not: after `closed`, after
            serve has returned, in a forked child, at interpreter shutdown.

        Raises:
            TypeError: `data` is not bytes-like and contiguous.
        """
        raise NotImplementedError

    def __reduce__(self) -> NoReturn:
        raise TypeError("an evio.Wake cannot be pickled or copied: it belongs to one connection of this process")
