"""A page in a browser."""

from pathlib import Path
from typing import Any

DRAWN = "() => [...document.querySelectorAll('.plotly-graph-div')].every((one) => one.querySelector('.main-svg'))"


class Opened:
    """A page, and what it complained of or asked the network for."""

    def __init__(self, browser: Any, path: Path, window: dict[str, int] | None = None, fragment: str = "") -> None:
        self.page = browser.new_page(viewport=window)
        self.told: list[str] = []
        self.page.on("console", lambda message: self.told.append(message.text))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("request", lambda request: self.told.append(request.url) if "file:" not in request.url else None)
        self.page.goto(path.as_uri() + fragment)

    def left_alone(self) -> Any:
        """The page when it has drawn all its figures, the last ones in idle time."""
        self.page.wait_for_function(DRAWN, timeout=60_000)
        return self.page

    def drawn(self) -> Any:
        """The page with all its figures drawn at once, as it does when it is printed."""
        self.page.evaluate("['beforeprint', 'afterprint'].forEach((name) => dispatchEvent(new Event(name)))")
        return self.left_alone()
