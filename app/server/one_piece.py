"""Gunicorn's response, sent in one piece."""

from typing import Final

from gunicorn import util
from gunicorn.http import wsgi

# Longer bodies are not copied to stand behind their head.
_ONE_PIECE_MAX_BYTES: Final = 64 * 1024


class OnePieceResponse(wsgi.Response):  # type: ignore[misc]
    """Sends the head together with the first bytes of the body: each piece wakes the client up, and the kernel's network."""

    headers_sent: bool
    _writing = False

    def write(self, arg: bytes) -> None:
        """Part of the body. Without one, `close` sends the head."""
        self._writing = True
        try:
            super().write(arg)
        finally:
            self._writing = False

    def send_headers(self) -> None:
        """The head alone, unless part of the body is about to follow."""
        if not self._writing:
            super().send_headers()

    def _emit_body(self, data: bytes) -> None:
        if not self.headers_sent:
            if len(data) > _ONE_PIECE_MAX_BYTES or self.chunked:
                super().send_headers()
            else:
                lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
                data = util.to_bytestring("".join(lines), "latin-1") + data
                self.headers_sent = True
        super()._emit_body(data)
