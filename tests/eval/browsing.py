"""Headless Chromium for the tests of the HTML pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver

IS_INSTALLED = bool(shutil.which("chromium") and shutil.which("chromedriver"))
"""Whether Debian's packages chromium and chromium-driver are installed."""

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1200,900"
)


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Starts a browser that fetches nothing by itself; ``get_log("browser")`` has the pages' errors."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def as_on_a_phone(page: webdriver.Chrome, scheme: str) -> None:
    """Emulates a phone's screen and a colour scheme; ``Emulation.clearDeviceMetricsOverride`` ends the former."""
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
