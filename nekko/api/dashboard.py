"""`/ui`: a page for people that shows how the daemon is. It reads `/admin/status` and `/content/`, and changes nothing.

Its three files are part of the package, and it loads nothing from elsewhere: a node may have no way out.
"""

from importlib import resources

from quart import Blueprint, Response

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Should a name from elsewhere ever get into the page as more than text, it can load and tell nothing."""


def build() -> Blueprint:
    """Make the routes."""
    door = Blueprint("dashboard", __name__)
    files = resources.files("nekko.api").joinpath("ui")
    page, script, style = (
        files.joinpath(name).read_bytes() for name in ("index.html", "dashboard.js", "dashboard.css")
    )

    @door.get("/ui")
    async def show() -> Response:
        return _response(page, "text/html")

    @door.get("/ui/dashboard.js")
    async def behave() -> Response:
        return _response(script, "text/javascript")

    @door.get("/ui/dashboard.css")
    async def look() -> Response:
        return _response(style, "text/css")

    return door


def _response(body: bytes, media_type: str) -> Response:
    return Response(body, content_type=f"{media_type}; charset=utf-8", headers=_HEADERS)
