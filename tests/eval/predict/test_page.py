"""The page of the most uncertain labels, in a browser."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from data_prep.settings import RegionArgs
from eval.predict.items import Item
from eval.predict.job import Job
from eval.predict.page import write_page
from eval.predict.summary import Summary
from tests.eval.browsing import as_on_a_phone
from tests.eval.predict.pictures import NAMES, write_shields


@pytest.fixture
def page(browser, tmp_path):
    folder, job = write_shields(tmp_path / "in", 4), Job(tmp_path / "labels.csv")
    items = [Item("file", str(path)) for path in sorted(folder.rglob("*.png"))]
    job.begin(job.write_list(items, 4), {})
    summary = Summary(keep=4, notes=["nano-clip: figures mean nothing"])
    for number, item in enumerate(items):
        first, second = 0.5 + number / 10, 0.5 - number / 10
        pairs = ((NAMES[number], first), (f"<b>{number}</b>", second))
        candidates = [{"name": name, "probability": p, "score": 0.25} for name, p in pairs]
        known = {0: None, 1: False}.get(number, True)
        record = item.record() | {"name": NAMES[number], "error": None, "known": known, "ranked": number < 3}
        summary.add(record | {"candidates": candidates})
    write_page(tmp_path / "labels.html", job, summary, RegionArgs())
    browser.get((tmp_path / "labels.html").as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def cards(page) -> list[str]:
    return [card.text for card in page.find_elements(By.CSS_SELECTOR, "#cases > li")]


def test_labels_are_shown_with_the_most_uncertain_first_and_filtered(page):
    first, *others = cards(page)
    assert len(others) == 3 and "000000.png" in first and first.count("50.0 %") == 2 and "<b>0</b>" in first
    assert page.find_element(By.CSS_SELECTOR, "#cases img").get_attribute("naturalWidth") != "0"
    assert "figures mean nothing" in page.find_element(By.CSS_SELECTOR, ".notes").text
    assert not page.find_element(By.ID, "setting").is_displayed()  # there are none
    for kind, file in (("none of the classes", "000001"), ("by the retriever alone", "000003")):
        page.find_element(By.CSS_SELECTOR, f'#kinds button[data-kind="{kind}"]').click()
        (card,) = cards(page)
        assert file in card and kind in card
    page.find_element(By.CSS_SELECTOR, '#kinds button[data-kind="all"]').click()
    page.find_element(By.ID, "query").send_keys("<B>2")  # a candidate's name
    assert "000002" in cards(page)[0] and len(cards(page)) == 1


def test_the_page_of_labels_fits_a_phone(page):
    as_on_a_phone(page, "dark")
    overflow = page.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert overflow == 0
