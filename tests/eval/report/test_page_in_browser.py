"""The report page in a real browser: filters, search, paging and keyboard, on a phone and in dark mode."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from eval.report.page import write_page
from tests.eval.browsing import as_on_a_phone
from tests.eval.evaluation_folder import NAMES, write_evaluation


@pytest.fixture
def page(browser, tmp_path):
    browser.get(write_page(write_evaluation(tmp_path)).as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def cards(page) -> list:
    return page.find_elements(By.CSS_SELECTOR, "#cases > li")


def waits_for(page, count: str) -> bool:
    """Waits until the page shows this count of predictions."""
    return WebDriverWait(page, 10).until(lambda _: page.find_element(By.ID, "count").text == count, count)


def test_filters_and_search_narrow_the_predictions(page):
    assert waits_for(page, "1 to 18 of 18") and len(cards(page)) == 18
    Select(page.find_element(By.ID, "status")).select_by_visible_text("unreadable")
    assert waits_for(page, "1 to 3 of 3")
    assert "unreadable" in cards(page)[0].text
    Select(page.find_element(By.ID, "setting")).select_by_visible_text("few shot, 4 shots")
    assert waits_for(page, "1 to 1 of 1")
    Select(page.find_element(By.ID, "status")).select_by_visible_text("corrected")
    assert waits_for(page, "1 to 2 of 2")  # whose true class is last, which the ranker puts first
    Select(page.find_element(By.ID, "status")).select_by_visible_text("all")
    page.find_element(By.ID, "query").send_keys("<B>")
    assert waits_for(page, "1 to 2 of 2") and NAMES[2] in cards(page)[0].text
    page.find_element(By.ID, "query").send_keys("nothing")
    assert waits_for(page, "none") and cards(page) == []


def test_a_card_shows_image_ranking_and_probabilities(page):
    page.find_element(By.ID, "query").send_keys("image-2")
    assert waits_for(page, "1 to 3 of 3")
    card = cards(page)[0]
    assert card.find_element(By.CSS_SELECTOR, ".head img").get_attribute("naturalWidth") != "0"
    lines = [line.text for line in card.find_elements(By.CSS_SELECTOR, "ol.ranking > li")]
    assert [NAMES[4] in lines[0], NAMES[3] in lines[1], NAMES[2] in lines[2]] == [True] * 3
    assert "(retrieved 3)" in lines[0] and "50.0 %" in lines[0]
    assert "no image" in lines[0]  # of a class without one


def test_the_keyboard_reaches_every_control_in_order(page):
    page.find_element(By.ID, "setting").click()
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    reached = [page.switch_to.active_element.get_attribute("id")]
    for _ in range(2):
        page.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(page.switch_to.active_element.get_attribute("id"))
    assert reached == ["setting", "status", "query"]
    assert not page.find_element(By.ID, "next").is_enabled()  # all fit on one page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_vertically_only_and_text_has_contrast(page, scheme):
    as_on_a_phone(page, scheme)
    overflow = page.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    colours = page.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor].map(c => c.match(/\\d+/g))"
    )
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert overflow == 0
    text, background = (sum(map(int, colour[:3])) for colour in colours)
    assert (text < background) == (scheme == "light") and abs(text - background) > 400
