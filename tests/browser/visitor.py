"""A person at a browser: opens pages, follows links, presses buttons, and notices what is wrong with any page.

Texts are given in English and looked up in the language that the person reads, so that one journey is told once.
"""

from __future__ import annotations

import os
import re
import shutil
from types import TracebackType

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright, Response, ViewportSize, expect

from compute_portal.language import HTML_LANG, Language, gettext, ngettext, say
from compute_portal.sentences import Sentence
from tests.browser.house import PASSWORD

CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# Nothing of the browser's own goes out to the network, and it draws the same on every machine.
FLAGS = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
WIDE: ViewportSize = {"width": 1280, "height": 900}
NARROW: ViewportSize = {"width": 360, "height": 740}
LOCALES: dict[Language, str] = {"zh": "zh-CN", "en": "en-GB"}
WITHIN_MS = 15_000
SIDEWAYS = """() => {
  const most = document.documentElement.clientWidth, found = document.scrollingElement.scrollWidth;
  if (found <= most) return null;
  const outside = e => e.getBoundingClientRect().right > most + 1;
  const wide = [...document.querySelectorAll('main *, header *, footer *')].filter(outside);
  return found + ' px wide: ' + wide.slice(-3).map(e => e.outerHTML.slice(0, 120)).join(' | ');
}"""


def find_chromium() -> str | None:
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


def start(playwright: Playwright, path: str) -> Browser:
    # Chromium's sandbox refuses to run as root.
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    return playwright.chromium.launch(executable_path=path, args=flags)


class Visitor:
    """One browser profile. Leaving the `with` block fails when any page that was seen had something wrong."""

    def __init__(self, browser: Browser, address: str, language: Language, *, phone: bool = False) -> None:
        self.address = address
        self.language = language
        self.wrong: list[str] = []
        self.measured: set[str] = set()  # pages that were measured, whatever their numbers
        self.screen = NARROW if phone else WIDE
        self.context = browser.new_context(
            base_url=address, locale=LOCALES[language], viewport=self.screen, has_touch=phone
        )
        self.context.set_default_timeout(WITHIN_MS)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        self.page.on("response", self._response)

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.context.close()
        if kind is None:
            assert not self.wrong, "\n".join(self.wrong)

    # -- what a person does

    def sign_in(self, email: str, password: str = PASSWORD) -> Visitor:
        self.open("/sign-in")
        self.fill("E-mail", email)
        self.fill("Password", password)
        self.page.locator("main button[type=submit]").click()
        expect(self.page.locator("header .who").first).to_be_visible()
        self.arrive()
        return self

    def arrive(self) -> None:
        """At the start page, in one's own language: the portal begins with Chinese."""
        self.page.goto("/start")
        if self.page.locator("html").get_attribute("lang") != HTML_LANG[self.language]:
            self._switch_language()
        self.look()

    def _switch_language(self) -> None:
        if self.screen is NARROW:
            self.page.locator("header .menu summary").click()
        self.click(self.page.locator("header button[name=language]:visible"))

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.look()

    def go(self, text: str) -> None:
        """By an entry of the header: on a phone all of them are in its menu, on a desk some under "More"."""
        if self.screen is NARROW:
            self.page.locator("header .menu summary").tap()
            return self.follow(text, within="header .menu")
        link = self.page.locator("header .nav-main").get_by_role("link", name=self.words(text), exact=True)
        if not link.count():  # in what is folded nothing has a role
            self.page.locator("header .more summary").click()
        return self.follow(text, within="header .nav-main")

    def follow(self, text: str, within: str = "main", **values: str) -> None:
        """Click the link of this text, the first of several."""
        self.click(self.page.locator(within).get_by_role("link", name=self.words(text, **values), exact=True).first)

    def press(self, text: str, within: str = "main", **values: str) -> None:
        self.click(self.page.locator(within).get_by_role("button", name=self.words(text, **values), exact=True).first)

    def click(self, target: Locator) -> None:
        """Click what leads to another page, with a finger on a phone, and look at that page."""
        before = self.page.evaluate("() => (window.left = false, performance.timeOrigin)")
        if self.screen is NARROW:
            target.tap()
        else:
            target.click()
        self.page.wait_for_function(
            "before => performance.timeOrigin !== before && document.readyState === 'complete'", arg=before
        )
        self.look()

    def fill(self, label: str, text: str) -> None:
        self.field(label).fill(text)

    def field(self, label: str) -> Locator:
        optional = re.compile(rf"^{re.escape(self.words(label))}( .+)?$")
        return self.page.get_by_label(optional).first

    # -- what a person sees

    @property
    def text(self) -> str:
        return self.page.locator("main").inner_text()

    @property
    def heading(self) -> str:
        return self.page.locator("h1").inner_text()

    def sees(self, text: str, **values: str) -> bool:
        return self.words(text, **values) in self.text

    def reads(self, sentence: str, **values: object) -> bool:
        """A sentence of the rules, by its id."""
        return say(Sentence(sentence, **values), self.language) in self.text

    def sees_state(self, word: str) -> bool:
        return self.page.locator(".state-lg").inner_text().strip() == self.words(word)

    def words(self, text: str, **values: str) -> str:
        return _filled(gettext(self.language, text), values)

    def words_n(self, one: str, many: str, n: int, **values: str) -> str:
        return _filled(ngettext(self.language, one, many, n), {"num": str(n), **values})

    def look(self) -> None:
        """Every page: in this person's language, and nothing to scroll sideways for on the smallest phone."""
        here = self.page.url.removeprefix(self.address)
        said = self.page.locator("html").get_attribute("lang")
        if said != HTML_LANG[self.language]:
            self.wrong.append(f"{here}: the page is in {said}")
        shape = re.sub(r"[\d,.:]+", "#", f"{here} {self.page.title()}")
        if shape in self.measured:
            return
        self.measured.add(shape)
        if self.screen is not NARROW:
            self.page.set_viewport_size(NARROW)
        if too_wide := self.page.evaluate(SIDEWAYS):
            self.wrong.append(f"{here}: at 360 px the page is {too_wide}")
        if self.screen is not NARROW:
            self.page.set_viewport_size(self.screen)

    # -- what a person does not notice, and we do

    def _console(self, message: ConsoleMessage) -> None:
        # A refused form answers 422 on purpose; which answers are wrong is decided below.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.wrong.append(f"{self.page.url}: console: {message.text}")

    def _response(self, response: Response) -> None:
        is_page = response.request.resource_type == "document"
        if response.status >= 500 or (response.status >= 400 and not is_page):
            self.wrong.append(f"{response.status} {response.request.method} {response.url}")


def _filled(text: str, values: dict[str, str]) -> str:
    return text % values if values else text.replace("%%", "%")
