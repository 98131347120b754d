"""A page of a report in a browser."""

from __future__ import annotations

from typing import Any


class Opened:
    """A page in the browser, with what it said on the console and asked the network for."""

    def __init__(self, browser: Any, address: str) -> None:
        self.page = browser.new_page(viewport={"width": 1500, "height": 1000})
        self.page.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console", lambda message: self.errors.append(message.text) if message.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready=yes]")

    def tab(self, name: str) -> None:
        self.page.click(f"[data-tab={name}]")

    def count(self, text: str) -> None:
        """Wait until the line above the list says ``text``."""
        self.wait("text => document.getElementById('count').textContent === text", text)

    def choose(self, **fields: str) -> None:
        for name, value in fields.items():
            self.page.select_option(f"#filter-{name}", value)

    def texts(self, selector: str) -> list[str]:
        return self.page.eval_on_selector_all(selector, "found => found.map(one => one.textContent)")

    def response(self) -> str:
        return self.page.inner_text(".response")

    def wait(self, expression: str, argument: Any = None) -> None:
        """Poll until an expression is true. The page's content policy forbids what wait_for_function does."""
        for _ in range(600):
            if self.page.evaluate(expression, argument):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"never true: {expression}, {argument!r}; {self.page.inner_text('body')[:2000]}")
