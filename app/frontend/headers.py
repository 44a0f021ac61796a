"""What browsers are told about the pages: nothing runs in them but the files that they come with."""

from typing import Final

from flask import Flask, Response, request

from app.api.auth import BROWSER_PREFIXES

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "font-src 'self'",
        "connect-src 'self'",  # WebSockets of this host included
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    # Not no-referrer: forms would then be sent with the origin `null`.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=(), usb=(), payment=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def register_page_headers(app: Flask) -> None:
    """Send them with every page; the API's own description is another program's pages."""

    @app.after_request
    def _protect(response: Response) -> Response:
        if response.mimetype == "text/html" and not request.path.startswith(BROWSER_PREFIXES):
            response.headers.update(HEADERS)
        return response
