"""A browser without a window, Debian's chromium, driven by playwright: for the tests of pages, and for pictures."""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

CHROMIUM = shutil.which("chromium")
# Of each element that a selector names, the contrast of its text with what is behind it.
CONTRAST = """(names) => {
    const light = (text) => {
        const [r, g, b] = text.match(/[0-9.]+/g).map((n) => n / 255)
            .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (node) => {
        let behind = node;
        while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
        const ink = node instanceof SVGElement ? "fill" : "color";
        const two = [getComputedStyle(node)[ink], getComputedStyle(behind).backgroundColor].map(light);
        return (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
    };
    return names.map((name) => [name, ratio(document.querySelector(name))]);
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """As root it runs without its own sandbox."""
    api = import_module("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[] if os.geteuid() else ["--no-sandbox"]
        )  # fmt: skip
        yield browser
        browser.close()


def picture(browser: Any, file: Path, target: Path, width: int, height: int) -> None:
    """Of a page as it opens, in 64 colours: a third of the bytes."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
    tab = context.new_page()
    tab.goto(file.as_uri())
    image = Image.open(io.BytesIO(tab.screenshot()))
    image.convert("RGB").quantize(64).save(target, optimize=True)
    context.close()


class Tab:
    """A page in a tab of its own, with what it asked for and what went wrong in it."""

    def __init__(self, browser: Any, file: Path, **options: Any):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type == "error" else None)
        self.page.goto(file.as_uri())

    def keys(self, *names: str) -> None:
        for name in names:
            self.page.keyboard.press(name)

    def wide(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def faint(self, *names: str) -> list[tuple[str, float]]:
        """Those of the selectors whose text has a contrast below 4.5."""
        return [(name, ratio) for name, ratio in self.page.evaluate(CONTRAST, list(names)) if ratio < 4.5]

    def milliseconds(self) -> float:
        """That it took to open."""
        return float(self.page.evaluate("performance.getEntriesByType('navigation')[0].duration"))
