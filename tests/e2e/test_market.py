"""Bids and firm sales from a client to the real planner and back: real daemon, real gateway, prices that change."""

import io
import json
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import openai
import pytest

from tests.support.batch_site import BatchSite
from tests.support.daemon import TOKEN
from tests.support.gateway import KEY, Desk, line
from tests.support.openai_server import OpenAiServer, good

CHEAP, DEAR = 20.0, 400.0
"""USD/MWh: a million tokens cost about a dollar, and about twenty."""
BID = "5"
LINES, TOKENS_EACH = 30, 360


class Market:
    """A site of sixteen cards on which nothing else runs, a gateway, and a server whose answers have `TOKENS_EACH`."""

    def __init__(self, stack, folder):
        (folder / "site").mkdir()
        self.nudges, self.each = 0, TOKENS_EACH
        self.server, self.site = OpenAiServer(), BatchSite(folder / "site", "{type: queue}")
        stack.callback(self.server.close)
        stack.callback(self.site.end)
        self.server.answer = self.answer
        self.price(DEAR)
        url = f"http://127.0.0.1:{self.site.fields['port']}"
        self.desk = Desk(folder / "gateway", self.server.url, url, TOKEN, per_gpu=1)
        stack.callback(self.desk.close)
        self.daemon = self.site.start()
        self.desk.start()
        self.daemon.serving()
        self.client = stack.enter_context(openai.OpenAI(base_url=f"{self.desk.url}/v1", api_key=KEY, max_retries=2))

    def answer(self, body):
        status, said, headers = good(body)
        return status, said | {"usage": {"prompt_tokens": self.each - 4, "completion_tokens": 4}}, headers

    def price(self, per_mwh):
        """From now on power costs so much, and a hundredth more with each minute: there is no time like the present."""
        start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)
        rows = [f"{start + timedelta(minutes=k):%Y-%m-%dT%H:%M:%SZ},{per_mwh * (1 + 0.01 * k):.4f}" for k in range(800)]
        (self.site.folder / "prices.csv").write_text("\n".join(["start,price", *rows]) + "\n")

    def replan(self):
        """A job that comes and goes: the daemon plans at once."""
        deadline = (datetime.now(UTC) + timedelta(hours=5)).isoformat()
        self.nudges += 1
        job = {"id": f"nudge-{self.nudges}", "pool": "tune", "work_gpu_h": 0.1, "max_gpus": 1, "deadline": deadline}
        assert self.daemon.call("POST", "/api/v1/jobs", job)[0] == 201
        assert self.daemon.call("DELETE", f"/api/v1/jobs/{job['id']}")[0] == 200

    def indicated(self):
        """What a million tokens cost now, as the gateway tells; None before it knows."""
        found = self.desk.call("GET", "/v1/quotes").json()["data"][0]["intervals"]
        return found[0]["indication_per_million_tokens"] if found else None

    def begin(self, **metadata):
        rows = "".join(json.dumps(line(k, f"question {k}")) + "\n" for k in range(LINES))
        file = self.client.files.create(file=("in.jsonl", io.BytesIO(rows.encode())), purpose="batch")
        return self.client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata=metadata
        )

    def finished(self, batch):
        over = {"completed", "failed", "expired"}
        found = self.desk.wait(lambda: (one := self.client.batches.retrieve(batch.id)).status in over and one, 90)
        assert (found.status, found.request_counts.completed) == ("completed", LINES)
        return found

    def sale(self, job):
        """The books of a job."""
        rows = self.daemon.get("/api/v1/sales")["sales"]
        return next((row for row in rows if row["job"] == job), None)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    with ExitStack() as stack:
        yield Market(stack, tmp_path_factory.mktemp("market"))


@pytest.mark.timeout(400)
def test_a_batch_with_a_bid_waits_while_power_is_dearer_and_runs_when_it_pays(market):
    desk, daemon = market.desk, market.daemon
    desk.wait(lambda: (market.indicated() or 0) > float(BID), 60)
    batch = market.begin(max_price_per_million_tokens=BID)
    market.server.delay_s = 1.0
    job = batch.id
    desk.wait(lambda: (daemon.call("GET", f"/api/v1/jobs/{job}") or (0, {}))[1].get("reason"), 60)
    begun = daemon.get("/api/v1/quotes")["made_at"]
    market.replan()
    desk.wait(lambda: daemon.get("/api/v1/quotes")["made_at"] > begun, 60)
    assert batch.id not in daemon.get("/api/v1/jobs/grants")["grants"], "it waits"
    assert not market.server.asked
    market.price(CHEAP)
    market.replan()
    found = market.finished(batch)
    desk.wait(lambda: (market.sale(job) or {}).get("tokens") == LINES * TOKENS_EACH)
    sale = market.sale(job)
    assert sale["paid"] == pytest.approx(found.model_extra["gridpace"]["paid"])
    assert 0 < sale["paid"] <= float(BID) * sale["tokens"] / 1e6, "never more than its bid"
    assert sale["energy_kwh"] > 0
    assert sale["energy_cost"] == pytest.approx(sale["energy_kwh"] * CHEAP / 1000, rel=0.5)
    assert sale["margin"] == pytest.approx(sale["paid"] - sale["energy_cost"])


@pytest.mark.timeout(400)
def test_what_was_bought_at_a_firm_price_is_delivered_by_its_deadline_though_power_has_become_dear(market):
    desk, daemon = market.desk, market.daemon
    before = daemon.get("/api/v1/sales")["tenants"].get("research", {"tokens": 0})["tokens"]
    market.price(CHEAP)
    market.replan()
    desk.wait(lambda: (market.indicated() or 99.0) < float(BID), 60)
    ask = {"model": "tiny", "tokens": LINES * TOKENS_EACH, "deadline": "40m"}
    quote = desk.wait(lambda: (found := desk.call("POST", "/v1/quotes", json=ask)).status_code == 200 and found.json())
    assert quote["per_million_tokens"] < float(BID)
    bought = desk.call("POST", f"/v1/quotes/{quote['id']}/accept").json()
    market.price(DEAR)
    desk.wait(lambda: quote["id"] in {job["id"] for job in daemon.get("/api/v1/jobs")["jobs"]}, 60)
    market.replan()
    desk.wait(lambda: (market.indicated() or 0) > float(BID), 60)
    desk.wait(lambda: daemon.get("/api/v1/jobs/grants")["grants"].get(quote["id"], {}).get("gpus", 0) > 0, 60)
    market.server.delay_s = 0.5
    found = market.finished(market.begin(quote=quote["id"]))
    assert found.model_extra["gridpace"]["quote"] == quote["id"]
    assert found.completed_at < bought["deadline"]
    ended = desk.wait(
        lambda: (one := desk.call("GET", f"/v1/quotes/{quote['id']}").json())["status"] == "delivered" and one, 60
    )
    assert ended["tokens_used"] == LINES * TOKENS_EACH
    desk.wait(lambda: daemon.get(f"/api/v1/jobs/{quote['id']}")["state"] == "done")
    sale = market.sale(quote["id"])
    assert sale["tokens"] == LINES * TOKENS_EACH
    assert sale["paid"] == pytest.approx(quote["price"]), "what was agreed, whatever power costs"
    assert sale["energy_kwh"] > 0
    assert sale["margin"] == pytest.approx(sale["paid"] - sale["energy_cost"])
    assert daemon.get("/api/v1/sales")["tenants"]["research"]["tokens"] == before + LINES * TOKENS_EACH


@pytest.mark.timeout(400)
def test_a_batch_that_takes_more_than_was_bought_is_done_and_pays_for_the_rest(market, monkeypatch):
    desk, daemon = market.desk, market.daemon
    market.price(CHEAP)
    market.replan()
    desk.wait(lambda: (market.indicated() or 99.0) < float(BID), 60)
    ask = {"model": "tiny", "tokens": LINES * TOKENS_EACH, "deadline": "40m"}
    quote = desk.wait(lambda: (found := desk.call("POST", "/v1/quotes", json=ask)).status_code == 200 and found.json())
    desk.call("POST", f"/v1/quotes/{quote['id']}/accept")
    monkeypatch.setattr(market, "each", 10 * TOKENS_EACH)
    market.server.delay_s = 20.0
    batch = market.begin(quote=quote["id"])
    desk.wait(lambda: desk.look(batch.id)["usage"]["total_tokens"] > quote["tokens"], 120)
    told = desk.wait(lambda: (found := market.sale(quote["id"]) or {}).get("tokens", 0) > quote["tokens"] and found, 60)
    begun = daemon.get("/api/v1/quotes")["made_at"]
    market.replan()
    desk.wait(lambda: daemon.get("/api/v1/quotes")["made_at"] > begun, 60)
    market.server.delay_s = 0.5
    found = market.finished(batch)
    beyond = found.model_extra["gridpace"]["paid"]
    assert 0 < beyond < float(BID) * 9 * quote["tokens"] / 1e6, "as indicated, by each plan anew"
    desk.wait(lambda: daemon.get(f"/api/v1/jobs/{quote['id']}")["state"] == "done", 60)
    sale = market.sale(quote["id"])
    assert sale["tokens"] == 10 * LINES * TOKENS_EACH > told["tokens"]
    assert sale["paid"] == pytest.approx(quote["price"] + beyond)
