"""The report as a browser shows it: quiet, alone, sortable, readable."""

from __future__ import annotations

import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from _reports import NASTY, evolution, finished_search, write

from prunekit.cli.report import write_report
from prunekit.core.candidates import Candidate

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # root has no sandbox; no name is resolved, so that nothing but this machine can be reached
    options = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@dataclass
class Seen:
    """A page in a browser and what it did there."""

    page: Any
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def open(self, place: str) -> Seen:
        """Look at a place until nothing moves any more, with every table unfolded."""
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda line: self.said.append(f"{line.type}: {line.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.goto(place)
        self.page.wait_for_load_state("networkidle")
        self.page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true })")
        return self

    def column(self, table: Any, place: int) -> list[str]:
        """Texts of a column of a table."""
        return list(table.locator(f"tbody tr td:nth-child({place + 1})").all_text_contents())


@pytest.fixture
def seen(browser: Any) -> Iterator[Seen]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    yield Seen(context.new_page())
    context.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a search of two objectives, in which one candidate has no parameters told."""
    folder = tmp_path_factory.mktemp("report")
    candidates = [*evolution(4), Candidate(32, (0.5, 0.25), 0.123456, {"macs": 5000}, 0.5, 4, 3)]
    notes = {g: {"hypervolume": 0.1 * g, "objectives": ["accuracy", "macs"]} for g in range(5)}
    finished_search(folder, candidates, notes)
    return write_report(folder)


@pytest.fixture
def served(report: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of the page on a server of our own, and the paths that are asked of it."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(report.parent))

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_page_says_and_asks_for_nothing(seen: Seen, report: Path) -> None:
    seen.open(report.as_uri())
    assert seen.said == []
    assert seen.asked[0] == report.as_uri()
    assert all(place.startswith("data:") for place in seen.asked[1:])


def test_the_page_of_a_run_does_neither_whatever_its_names(seen: Seen, tmp_path: Path) -> None:
    write(tmp_path, stages=[{"stage": '<img src="http://127.0.0.1:9/x" onerror="alert(1)">', "top1": 0.5}])
    seen.open((tmp_path / "report.html").as_uri())
    assert seen.said == [] and len(seen.asked) == 1
    assert NASTY in seen.page.title()


def test_a_server_is_asked_for_the_page_alone(seen: Seen, served: tuple[str, list[str]]) -> None:
    place, asked = served
    seen.open(f"{place}/report.html")
    assert seen.said == [] and asked == ["/report.html"]
    # what would ask for more is held back by the page's own policy, and would be seen here
    seen.page.evaluate(
        "place => { const i = new Image(); i.src = place; document.body.append(i) }", f"{place}/leak.png"
    )
    seen.page.evaluate("place => fetch(place).catch(() => null)", f"{place}/leak.json")
    seen.page.evaluate(
        "() => { const s = document.createElement('script'); s.text = 'window.bad = 1'; document.body.append(s) }"
    )
    seen.page.wait_for_timeout(100)
    assert asked == ["/report.html"]
    assert len(seen.said) >= 3 and all("Content Security Policy" in line or "leak" in line for line in seen.said)
    assert seen.page.evaluate("() => window.bad") is None


def test_a_click_on_a_head_sorts_numbers_as_numbers(seen: Seen, report: Path) -> None:
    seen.open(report.as_uri())
    table = seen.page.locator("table", has=seen.page.locator("th", has_text="seconds"))
    assert table.count() == 1
    heads = [text.strip() for text in table.locator("th").all_text_contents()]
    place = heads.index("MACs")
    head = table.locator("th").nth(place)
    before = seen.column(table, place)
    numbers = sorted(int(text.replace(",", "")) for text in before)
    up = [f"{number:,}" for number in numbers]
    assert sorted(before) != up != before  # as texts they would stand otherwise

    head.get_by_role("button").click()
    assert seen.column(table, place) == up and head.get_attribute("aria-sort") == "ascending"
    rows = table.locator("tbody tr").all_text_contents()
    head.get_by_role("button").click()
    assert seen.column(table, place) == up[::-1] and head.get_attribute("aria-sort") == "descending"
    assert sorted(table.locator("tbody tr").all_text_contents()) == sorted(rows)  # whole lines moved

    # by keyboard, and another column takes over
    other = table.locator("th").nth(heads.index("candidate"))
    other.get_by_role("button").focus()
    seen.page.keyboard.press("Enter")
    assert seen.column(table, heads.index("candidate")) == [str(k) for k in range(33)]
    assert (other.get_attribute("aria-sort"), head.get_attribute("aria-sort")) == ("ascending", "none")
    assert seen.said == []


def test_what_is_no_number_stands_last_either_way(seen: Seen, report: Path) -> None:
    seen.open(report.as_uri())
    table = seen.page.locator("table", has=seen.page.locator("th", has_text="seconds"))
    place = [text.strip() for text in table.locator("th").all_text_contents()].index("parameters")
    button = table.locator("th").nth(place).get_by_role("button")
    for _ in range(2):
        button.click()
        column = seen.column(table, place)
        assert column[-1] == "-" and column.count("-") == 1


def test_every_table_can_be_sorted(seen: Seen, tmp_path: Path) -> None:
    write(tmp_path)
    seen.open((tmp_path / "report.html").as_uri())
    tables = seen.page.locator("table")
    assert tables.count() >= 5
    for k in range(tables.count()):
        table = tables.nth(k)
        assert table.locator("th").count() == table.locator("th button").count() >= 2
        table.locator("th button").first.click()
        names = seen.column(table, 0)
        assert len(names) > 0 and table.locator("th").first.get_attribute("aria-sort") == "ascending"
    groups = seen.page.locator("table", has=seen.page.locator("th", has_text="kept"))
    groups.locator("th button").first.click()
    assert seen.column(groups, 0) == ["b", NASTY]


def brightness(color: str) -> float:
    """Relative luminance of a CSS colour, as WCAG defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, two: str) -> float:
    """Contrast of two CSS colours, from 1 to 21."""
    low, high = sorted(map(brightness, (one, two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_pictures_can_be_read(scheme: str, seen: Seen, report: Path) -> None:
    seen.page.emulate_media(color_scheme=scheme)
    seen.open(report.as_uri())

    def style(selector: str, name: str) -> list[str]:
        found = seen.page.eval_on_selector_all(
            selector, "(all, name) => [...new Set(all.map(one => getComputedStyle(one)[name]))]", name
        )
        return list(found)

    (paper,) = style("body", "backgroundColor")
    assert (brightness(paper) > 0.5) is (scheme == "light")
    inks = [*style("body, h1, h2, td, th button, .quiet, summary, nav a", "color"), *style("figure svg text", "fill")]
    assert len(inks) >= 4 and min(contrast(ink, paper) for ink in inks) >= 4.5
    # marks need less, and differ from the faint dots
    marks = [color for color in style("figure svg use", "stroke") if color != "none"]
    assert len(marks) >= 4 and min(contrast(mark, paper) for mark in marks) >= 2


def test_a_page_fits_a_telephone_and_paper(seen: Seen, report: Path) -> None:
    seen.page.set_viewport_size({"width": 360, "height": 700})
    seen.open(report.as_uri())
    assert seen.page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert seen.page.evaluate("() => document.documentElement.lang") == "en"
    seen.page.emulate_media(media="print", color_scheme="dark")
    assert seen.page.locator("nav").is_hidden()
    assert brightness(seen.page.eval_on_selector("body", "one => getComputedStyle(one).backgroundColor")) > 0.9
    assert seen.page.pdf()[:5] == b"%PDF-"
