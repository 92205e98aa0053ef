"""The report page in a real browser: filters, search, paging and keyboard, on a phone and in dark mode."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from eval.report.page import render_page, write_pages
from eval.report.reading import read_evaluations
from eval.report.sheets import ClassRow
from tests.eval.browsing import as_on_a_phone
from tests.eval.evaluation_folder import CHOICES, NAMES, write_evaluation


@pytest.fixture
def page(browser, tmp_path):
    browser.get(write_pages(write_evaluation(tmp_path, choices=CHOICES))[0].as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def cards(page) -> list:
    return page.find_elements(By.CSS_SELECTOR, "#cases > li")


def waits_for(page, count: str) -> bool:
    """Waits until the page shows this count of predictions."""
    return WebDriverWait(page, 10).until(lambda _: page.find_element(By.ID, "count").text == count, count)


def press(page, kind: str) -> None:
    page.find_element(By.CSS_SELECTOR, f'#kinds button[data-kind="{kind}"]').click()


def count_on(page, kind: str) -> str:
    return page.find_element(By.CSS_SELECTOR, f'#kinds button[data-kind="{kind}"] span').text


def test_filters_and_search_narrow_the_predictions(page):
    assert waits_for(page, "1 to 18 of 18") and len(cards(page)) == 18
    press(page, "unreadable")
    assert waits_for(page, "1 to 3 of 3")
    assert "unreadable" in cards(page)[0].text
    Select(page.find_element(By.ID, "setting")).select_by_visible_text("4 shots")
    assert waits_for(page, "1 to 1 of 1")
    press(page, "corrected")
    assert waits_for(page, "1 to 2 of 2")  # whose true class is last, which the ranker puts first
    assert "retriever's first candidate is wrong" in page.find_element(By.ID, "explanation").text
    press(page, "all")
    page.find_element(By.ID, "query").send_keys("<B>")
    assert waits_for(page, "1 to 2 of 2") and NAMES[2] in cards(page)[0].text
    assert count_on(page, "all") == "2"
    page.find_element(By.ID, "query").send_keys("nothing")
    assert waits_for(page, "none") and cards(page) == []


def test_every_kind_of_error_has_its_own_address(page):
    link = page.find_element(By.CSS_SELECTOR, '#headline a[href="#show=broken%20by%20tuning&setting=few_shot-1"]')
    link.click()
    assert waits_for(page, "1 to 2 of 2") and "broken by tuning" in cards(page)[0].text
    assert Select(page.find_element(By.ID, "setting")).first_selected_option.text == "1 shot"
    press(page, "put right by tuning")
    page.refresh()
    assert waits_for(page, "1 to 2 of 2") and "put right by tuning" in cards(page)[0].text


def test_a_confusion_opens_its_images(page):
    row = page.find_element(By.CSS_SELECTOR, "#confused tbody tr")
    truth, chosen = (cell.text for cell in row.find_elements(By.CSS_SELECTOR, "td.text"))
    row.find_element(By.TAG_NAME, "button").click()
    assert waits_for(page, "1 to 3 of 3")
    assert all(truth in card.text and chosen in card.text for card in cards(page))
    page.find_element(By.ID, "pair").click()
    assert waits_for(page, "1 to 18 of 18")


def class_rows(page) -> list[str]:
    return [row.text for row in page.find_elements(By.CSS_SELECTOR, "#classes tbody tr")]


def test_classes_are_sorted_filtered_and_shown_a_page_at_a_time(browser, tmp_path):
    ((_, evaluated),) = read_evaluations(write_evaluation(tmp_path))
    top1 = [{"retriever": n % 1000 / 1000, "rar": n % 100 / 100} for n in range(10_000)]
    rows = [ClassRow(f"bird {n}", 1 + n % 7, shares, f"bird {n + 1}", 1) for n, shares in enumerate(top1)]
    by_memory = {("few_shot", 4): sorted(rows, key=lambda row: row.top1["rar"])}
    page = tmp_path / "many.html"
    page.write_text(render_page([evaluated], classes=by_memory), encoding="utf-8")
    assert page.stat().st_size < 1.5e6
    browser.get(page.as_uri())
    count = browser.find_element(By.ID, "class-count")
    assert count.text == "1 to 50 of 10000" and class_rows(browser)[0].startswith("bird 0 1 0.0 0.0 bird 1")
    browser.find_element(By.ID, "class-next").click()
    assert count.text == "51 to 100 of 10000"
    title = browser.find_elements(By.CSS_SELECTOR, "#classes th")[2]
    title.find_element(By.TAG_NAME, "button").click()
    assert title.get_attribute("aria-sort") == "ascending" and count.text == "1 to 50 of 10000"
    title.find_element(By.TAG_NAME, "button").click()
    assert " 99.9 " in class_rows(browser)[0] and title.get_attribute("aria-sort") == "descending"
    browser.find_element(By.ID, "class-query").send_keys("BIRD 77")
    assert count.text == "1 to 50 of 111" and all(row.startswith("bird 77") for row in class_rows(browser))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


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
    for _ in range(1):
        page.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(page.switch_to.active_element.get_attribute("id"))
    assert reached == ["setting", "query"]
    assert not page.find_element(By.ID, "next").is_enabled()  # all fit on one page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_vertically_only_and_text_has_contrast(page, scheme):
    as_on_a_phone(page, scheme)
    overflow = page.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    colours = page.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor].map(c => c.match(/\\d+/g))"
    )
    # Every table that is wider than the screen says that it scrolls, and no other does.
    is_honest = "r => r.scrollWidth > r.clientWidth + 1 === r.previousElementSibling.classList.contains('shown')"
    honest = f"return [...document.querySelectorAll('.scroll')].every({is_honest})"
    shown = "return document.querySelectorAll('.hint.shown').length"
    assert WebDriverWait(page, 10).until(lambda _: page.execute_script(honest))
    page.execute_script("document.querySelector('.scroll').style.width = '9rem'")
    assert WebDriverWait(page, 10).until(lambda _: page.execute_script(shown) and page.execute_script(honest))
    page.execute_script("document.querySelector('.scroll').style.width = ''")
    # Every interval in the table of accuracies is on the screen, with the name of its column.
    cell = page.find_element(By.CSS_SELECTOR, '#accuracy td[data-name="95 % interval"]')
    is_seen = page.execute_script(
        "const r = arguments[0].getBoundingClientRect(); return r.width > 0 && r.right <= innerWidth", cell
    )
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert overflow == 0 and is_seen
    text, background = (sum(map(int, colour[:3])) for colour in colours)
    assert (text < background) == (scheme == "light") and abs(text - background) > 400
