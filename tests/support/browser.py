"""A real Chromium, from the system's packages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService


def start_browser(folder: Path) -> Chrome:
    """Start it; its profile is in a folder."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.fail("chromium or chromedriver is missing: run tests/install-chromium")
    options = ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for option in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update"),
        *("disable-sync", "disable-dev-shm-usage", "window-size=1500,800"),
        f"user-data-dir={folder}",
    ):
        options.add_argument(f"--{option}")
    return Chrome(options=options, service=ChromeService(driver))


def of_width(browser: Chrome, width: int, height: int = 800) -> None:
    """Give the page a width that a window may not have: of a phone."""
    metrics: dict[str, Any] = {"width": width, "height": height, "mobile": False}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {**metrics, "deviceScaleFactor": 1}
    )


def of_scheme(browser: Chrome, scheme: str) -> None:
    """Prefer light or dark colours."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def with_script(browser: Chrome, on: bool) -> None:
    """Switch the pages' JavaScript on or off."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not on})
