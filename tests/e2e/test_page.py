"""The page as a person meets it: a real headless Chromium against a real server over a fake daemon."""

import json
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from scheduler.api import ApiServer, ApiSettings, Token, create_app
from scheduler.clock import ScaledClock
from tests.support.fake_service import EVENT, START, FakeService
from tests.support.system import require, require_module

require("chromium", "chromedriver")
require_module("nicegui")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service as Driver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
         "--window-size=1440,1000")  # fmt: skip
ODD = '<img src=x onerror="window.hacked=1"> ${1} `x` </script>'


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Driver("/usr/bin/chromedriver"))
        driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
        yield driver
        driver.quit()


@pytest.fixture
def service():
    clock = ScaledClock(START + timedelta(hours=2, minutes=58), 90.0)
    clock.begin()
    return FakeService(clock)


@pytest.fixture
def server(service):
    """Also the proof that page and server can be started and stopped many times in one process."""
    settings = ApiSettings(port=0, write_tokens=(Token("amy", "secret"),), demo=True)
    with ApiServer(create_app(service, settings), "127.0.0.1", 0) as running:
        yield running


def wait_for(browser, what, seconds=15):
    return WebDriverWait(browser, seconds, 0.1).until(what)


def text_of(browser, selector):
    """Text of an element, read in one go: the page may replace it at any moment."""
    return browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)


def test_page_lives_and_asks_nobody_else(browser, server, service):
    browser.get_log("performance")
    browser.get(server.url)
    wait_for(browser, lambda page: "Site power now" in text_of(page, ".gp-tiles"))
    first = text_of(browser, ".gp-clock")
    assert "demo, ×90" in first
    assert "America/Los_Angeles" in first
    assert "06 Sep 2022" in first  # the site's own day, while this browser sits in Tokyo
    for chart in ("power", "price"):
        wait_for(browser, lambda page, chart=chart: "17:00" in text_of(page, f".gp-chart-{chart} svg"))
    wait_for(browser, lambda page: text_of(page, ".gp-clock") != first)
    assert "at full power" in text_of(browser, ".gp-pools").lower() or "capped" in text_of(browser, ".gp-pools").lower()
    assert "Waits for 01:00" in text_of(browser, ".gp-jobs")
    assert "connection refused" in text_of(browser, ".gp-inputs")

    # The event of 17:00 comes alive, and the measured power goes below it.
    wait_for(browser, lambda page: "active" in text_of(page, ".gp-events"))
    power_mw = float(text_of(browser, ".gp-tile:nth-child(1) .gp-value").removesuffix("MW"))
    assert power_mw == pytest.approx(0.98 * EVENT.target_kw / 1000, rel=0.03)

    # A job that another site does says where.
    service.queue["lora-batch"] = replace(service.queue["lora-batch"], site="california")
    wait_for(browser, lambda page: "at california" in text_of(page, ".gp-jobs"))

    # An event by hand appears by itself; its name is text, whatever it holds.
    httpx.post(
        f"{server.url}/api/v1/events",
        json={"id": "by-hand", "version": 1, "site": "west", "name": ODD},
        headers={"Authorization": "Bearer secret"},
    ).raise_for_status()
    wait_for(browser, lambda page: ODD in text_of(page, ".gp-events"))
    time.sleep(1)
    assert browser.execute_script("return window.hacked") is None

    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []
    hosts = {urlsplit(url).netloc for url in requested(browser)}
    assert hosts == {urlsplit(server.url).netloc}


def requested(browser):
    """Every http and ws address that the page asked for."""
    for line in browser.get_log("performance"):
        message = json.loads(line["message"])["message"]
        url = message["params"].get("request", {}).get("url") or message["params"].get("url", "")
        if message["method"] in {"Network.requestWillBeSent", "Network.webSocketCreated"} and url.startswith(
            ("http", "ws")
        ):
            yield url


def test_page_says_when_there_is_no_plan_yet_and_fills_by_itself(browser, server, service):
    service.started = False
    browser.get(server.url)
    wait_for(browser, lambda page: "No plan yet" in text_of(page, ".gp-banner"))
    assert not browser.find_element(By.CSS_SELECTOR, ".gp-main").is_displayed()
    service.started = True
    wait_for(browser, lambda page: page.find_element(By.CSS_SELECTOR, ".gp-main").is_displayed())
    wait_for(browser, lambda page: "17:00" in text_of(page, ".gp-chart-power svg"))
    assert not browser.find_elements(By.CSS_SELECTOR, ".gp-banner")


def test_page_says_when_the_daemon_hangs_fails_or_is_gone(browser, server, service):
    browser.get(server.url)
    wait_for(browser, lambda page: "Site power now" in text_of(page, ".gp-tiles"))
    service.broken = True
    wait_for(browser, lambda page: "answers with an error" in text_of(page, ".gp-banner-box"))
    assert "Site power now" in text_of(browser, ".gp-tiles")  # the last figures stay, marked as old
    service.broken = False
    wait_for(browser, lambda page: text_of(page, ".gp-banner-box") == "")
    with service.lock:  # events() waits for it: the daemon hangs
        wait_for(browser, lambda page: "does not answer" in text_of(page, ".gp-banner-box"))
    wait_for(browser, lambda page: text_of(page, ".gp-banner-box") == "")
    server.stop()
    wait_for(browser, lambda page: page.find_element(By.ID, "popup").is_displayed(), 30)


def test_page_asks_for_a_token_where_others_can_reach_it(service):
    settings = ApiSettings(host="0.0.0.0", read_tokens=(Token("viewer", "view"),), max_pages=2)
    with ApiServer(create_app(service, settings), "127.0.0.1", 0) as server:
        refused = httpx.get(server.url)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Basic realm=gridpace")
        assert httpx.get(server.url, auth=("anyone", "wrong")).status_code == 401
        answers = [httpx.get(server.url, auth=("anyone", "view")).status_code for _ in range(6)]
        assert answers[0] == 200
        assert answers[-1] == 503  # so many pages and no more
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert httpx.get(f"{server.url}/nonsense").json() == {"error": "Not Found", "field": None}


def test_an_event_is_added_changed_and_withdrawn_by_hand_with_a_token(browser, server, service):
    browser.get(server.url)
    wait_for(browser, lambda page: "Site power now" in text_of(page, ".gp-tiles"))
    browser.find_element(By.CSS_SELECTOR, ".gp-hand-box summary").click()
    told = []
    service.add_event = lambda fields, by: told.append((fields, by)) or FakeService.add_event(service, fields, by)

    def fill(**fields):
        for name, value in fields.items():
            field = browser.find_element(By.CSS_SELECTOR, f".gp-hand [name={name}]")
            if field.tag_name == "select":
                field.find_element(By.CSS_SELECTOR, f"[value={value}]").click()
            else:
                field.clear()
                field.send_keys(value)
        browser.find_element(By.CSS_SELECTOR, ".gp-hand button").click()

    fill(id="phoned", kind="reduce_kw", minutes="45", token="wrong")
    assert text_of(browser, ".gp-hand output") == "", "an order without its amount is not sent"
    fill(amount="300")
    wait_for(browser, lambda page: "token is not known" in text_of(page, ".gp-hand output"))
    assert told == []
    fill(token="secret")
    wait_for(browser, lambda page: "phoned: " in text_of(page, ".gp-hand output"))
    wait_for(browser, lambda page: "phoned" in text_of(page, ".gp-events"))
    wanted = {"id": "phoned", "version": 1, "site": "west", "start": "now", "duration": "PT45M", "reduce_kw": 300}
    assert told == [(wanted | {"emergency": False}, "amy")]
    fill(act="cancel")
    wait_for(browser, lambda page: "cancelled" in text_of(page, ".gp-hand output"))
    assert service.book["phoned"].state == "cancelled"
    assert browser.find_element(By.CSS_SELECTOR, ".gp-hand [name=id]").get_attribute("value") == "phoned"
