"""Reports in a real browser, without a network: does a reader see what was written?"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import ne
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from seqsweep.results.report import write_comparison, write_report
from seqsweep.results.schema import TrialRecord
from tests.reports import failed, front_study, full_study, searched, write_study

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
HOSTILE = "<b>bold</b><a href='javascript:alert(1)'>link</a><img src=x onerror=alert(1)>"
DRAWN = """
[...document.querySelectorAll(".plot")].filter((plot) =>
  [...plot.querySelectorAll(".scatterlayer .trace path, .barlayer .trace path")].some((path) => {
    const box = path.getBoundingClientRect();
    return box.width + box.height > 0;
  })).length
"""
COLOURS = """
[getComputedStyle(document.querySelector(".plot text") ?? document.body).fill,
 getComputedStyle(document.documentElement).backgroundColor]
"""

MAX_LOOKS = 100
Scheme = Literal["light", "dark"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: make browser-tools")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    full, front = full_study(folder / "full"), front_study(folder / "front")
    hostile = [TrialRecord(None, "baseline", 0.1, model=HOSTILE), failed(9, f"{HOSTILE}: {HOSTILE}")]
    return {
        "full": write_report(full),
        "front": write_report(front),
        "hostile": write_report(write_study(folder / "hostile", [*searched(9), *hostile])),
        "empty": write_report(write_study(folder / "empty", [], data=None)),
        "comparison": write_comparison([full, front], folder / "comparison.html"),
    }


class Visit:
    """A page that is open, and all that it did."""

    def __init__(self, browser: Browser, path: Path, width: int = 1280, scheme: Scheme = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        self.page: Page = self.context.new_page()
        self.told: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.told.append(message.text))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("dialog", lambda dialog: self.told.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = path.as_uri()
        self.page.goto(self.address)

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.context.close()

    def until(self, holds: Callable[[], bool]) -> None:
        """Plotly may go on after the load. Playwright's own waiting is refused by the page's policy."""
        for _ in range(MAX_LOOKS):
            if holds():
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"did not come to hold in {MAX_LOOKS / 10:.0f} s")

    def check(self, width: int) -> None:
        """All plots have drawn something, the page fits, and nothing was said or asked for."""
        num_plots = self.page.locator(".plot").count()
        assert num_plots >= 2
        self.until(lambda: self.page.evaluate(DRAWN) == num_plots)
        assert self.page.evaluate("document.documentElement.scrollWidth") <= width
        assert self.told == [] and self.requests == [self.address]


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["full", "front", "comparison"])
def test_every_plot_is_drawn_light_and_dark_and_the_page_fits(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    with Visit(browser, pages[name], width) as visit:
        visit.check(width)
        light = visit.page.evaluate(COLOURS)
        visit.page.emulate_media(color_scheme="dark")
        visit.until(lambda: all(map(ne, visit.page.evaluate(COLOURS), light)))
        visit.check(width)


def test_a_page_that_is_opened_dark_is_drawn_dark(browser: Browser, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["comparison"], 400, "dark") as visit:
        visit.check(400)
        dark = visit.page.evaluate(COLOURS)
        visit.page.emulate_media(color_scheme="light")
        visit.until(lambda: all(map(ne, visit.page.evaluate(COLOURS), dark)))


def test_a_page_without_plots_is_quiet(browser: Browser, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["empty"], 400) as visit:
        assert visit.page.locator(".plot").count() == 0 and visit.page.locator("section").count() == 4
        assert visit.told == [] and visit.requests == [visit.address]


def test_hostile_names_are_shown_and_do_nothing(browser: Browser, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["hostile"]) as visit:
        labels = visit.page.locator(".plot text").all_text_contents()
        assert any("<b>bold</b><a href=" in label for label in labels)
        assert visit.page.locator("img, .plot a, .plot b, main b").count() == 0
        assert visit.told == [] and visit.requests == [visit.address]


def test_a_value_that_begins_like_a_colour_is_shown(browser: Browser, tmp_path: Path) -> None:
    records = [
        replace(record, hparams={**record.hparams, "norm": ("--pre", "post")[(record.trial or 0) % 2]})
        for record in searched(6)
    ]
    with Visit(browser, write_report(write_study(tmp_path / "mine", records))) as visit:
        visit.check(1280)
        labels = visit.page.locator("#slices .plot text").all_text_contents()
        assert "--pre" in labels and "post" in labels


def test_what_is_printed_is_all_there(browser: Browser, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["full"]) as visit:
        visit.page.emulate_media(media="print")
        assert not visit.page.locator("nav").is_visible() and visit.page.locator("#data").is_visible()
        assert visit.page.pdf(format="A4").startswith(b"%PDF")
