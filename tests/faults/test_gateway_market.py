"""Prices, firm quotes, bids and what they come to, as clients of a real gateway meet them."""

import signal
from contextlib import ExitStack

import pytest

from tests.support.gateway import KEY, OTHER_KEY, Desk, Granting, asked
from tests.support.openai_server import OpenAiServer

PER_GPU_H = 0.012
"""A GPU-hour at this price makes 12,000 tokens: one unit of money for a million."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with ExitStack() as kept:
        server, daemon = OpenAiServer(), Granting()
        kept.callback(server.close)
        kept.callback(daemon.close)
        desk = Desk(tmp_path_factory.mktemp("gateway"), server.url, daemon.url, "token", often=10)
        kept.callback(desk.close)
        desk.start()
        yield server, daemon, desk


@pytest.fixture
def desk(shared):
    server, daemon, made = shared
    server.forget()
    daemon.forget()
    yield made
    for key in (KEY, OTHER_KEY):
        for one in patient(made, "GET", "/v1/quotes/mine", key)["data"]:
            patient(made, "DELETE", f"/v1/quotes/{one['id']}", key)


def patient(desk, method, path, key):
    """The answer, when the tenant may ask again."""
    return desk.wait(lambda: (found := desk.call(method, path, key)).status_code == 200 and found.json())


@pytest.fixture
def daemon(shared):
    return shared[1]


def priced(desk, daemon, *prices, **more):
    """Quotes of the daemon, once the gateway has them."""
    daemon.quote(*(PER_GPU_H * price for price in prices), **more)
    wanted = daemon.quotes["made_at"]
    return desk.wait(lambda: (found := desk.call("GET", "/v1/quotes").json())["made_at"] == wanted and found)


def ask(desk, tokens, key=KEY, **more):
    return desk.call("POST", "/v1/quotes", key, json={"model": "tiny", "tokens": tokens} | more)


def test_every_interval_has_an_indication_and_what_can_be_bought(desk, daemon):
    found = priced(desk, daemon, 3.0, 1.0)
    assert (found["currency"], [one["model"] for one in found["data"]]) == ("USD", ["tiny", "small"])
    first, second = found["data"][0]["intervals"]
    assert first["indication_per_million_tokens"] == pytest.approx(3.0)
    assert second["firm"]["per_million_tokens"] == pytest.approx(1.1), "a tenth more for the risk"
    assert second["firm"]["tokens"] == 24_000, "half of four GPUs for an hour"
    head = desk.call("GET", "/v1/quotes").headers["ETag"]
    with desk.session() as session:
        again = session.get(f"{desk.url}/v1/quotes", headers={"If-None-Match": head})
    assert (again.status_code, again.content) == (304, b"")


def test_an_amount_costs_what_the_cheapest_free_hours_before_its_deadline_cost(desk, daemon):
    priced(desk, daemon, 3.0, 1.0, 2.0)
    assert ask(desk, 12_000).json()["per_million_tokens"] == pytest.approx(1.1)
    assert ask(desk, 1000, deadline="50m").json()["per_million_tokens"] == pytest.approx(3.3)
    late = ask(desk, 24_000).json()  # 12,000 of the cheapest hour are set aside: half at 1, half at 2
    assert late["per_million_tokens"] == pytest.approx(1.65, rel=0.1)


def test_what_is_set_aside_is_not_sold_twice_and_a_429_says_when_to_come(desk, daemon):
    priced(desk, daemon, 1.0, minutes=120)
    first = ask(desk, 40_000).json()
    refused = ask(desk, 20_000, OTHER_KEY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "no_room")
    assert 0 < int(refused.headers["Retry-After"]) <= 60, "until the first one's offer ends"
    desk.call("DELETE", f"/v1/quotes/{first['id']}")
    assert ask(desk, 20_000, OTHER_KEY).status_code == 200


def test_no_room_before_the_deadline_is_told_with_the_time_of_the_first_free_gpus(desk, daemon):
    daemon.quote(PER_GPU_H, PER_GPU_H, minutes=60)
    daemon.quotes["pools"][0]["intervals"][0]["free_gpus"] = 0.0
    made = daemon.quotes["made_at"]
    desk.wait(lambda: desk.call("GET", "/v1/quotes").json()["made_at"] == made)
    refused = ask(desk, 1000, deadline="30m")
    assert refused.status_code == 429
    assert 3400 < int(refused.headers["Retry-After"]) <= 3600


def test_a_price_above_the_bid_is_said_with_the_time_of_cheap_power(desk, daemon):
    priced(desk, daemon, 3.0, 1.0)
    refused = ask(desk, 1000, deadline="30m", max_price_per_million_tokens=2.0)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "price_above_bid")
    assert 3400 < int(refused.headers["Retry-After"]) <= 3600


def test_what_was_bought_is_a_job_survives_a_kill_and_is_delivered_by_a_batch(desk, daemon):
    priced(desk, daemon, 1.0, 1.0)
    bought = desk.call("POST", f"/v1/quotes/{ask(desk, 20_000, deadline='90m').json()['id']}/accept").json()
    assert bought["status"] == "accepted"
    desk.lives[-1].send_signal(signal.SIGKILL)
    desk.lives[-1].wait()
    desk.start()
    job = desk.wait(lambda: daemon.jobs.get(bought["id"]))
    assert job["work_gpu_h"] == pytest.approx(20_000 / 12_000)
    assert job["value_per_gpu_h"] == pytest.approx(bought["per_million_tokens"] * 12_000 / 1e6)
    assert (job["undone_penalty"], job["late_penalty"]) == (50.0, 50.0)
    found = desk.ended(desk.batch(["a", "b"], metadata={"quote": bought["id"]}))
    assert (found["status"], found["id"] in daemon.jobs) == ("completed", False), "it runs on the GPUs of the sale"
    assert desk.call("GET", f"/v1/quotes/{bought['id']}").json()["tokens_used"] == 24
    desk.call("DELETE", f"/v1/quotes/{bought['id']}")
    desk.wait(lambda: bought["id"] in daemon.cancelled)
    sold = daemon.sold[bought["id"]]
    assert (sold["tokens"], sold["tenant"]) == (24, "research")
    assert sold["paid"] == pytest.approx(0.02 * bought["per_million_tokens"]), "all of it is owed"


def test_a_sale_that_the_operator_withdraws_ends_its_batch_and_is_owed_for_what_was_used(desk, daemon, shared):
    priced(desk, daemon, 1.0, 1.0)
    bought = ask(desk, 20_000, deadline="90m").json()["id"]
    desk.call("POST", f"/v1/quotes/{bought}/accept")
    desk.wait(lambda: bought in daemon.jobs)
    shared[0].delay_s = 4.0
    name = desk.batch([f"w{k}" for k in range(50)], metadata={"quote": bought})
    desk.wait(lambda: desk.look(name)["request_counts"]["completed"] >= 8)
    daemon.cancelled.append(bought)
    assert desk.ended(name)["status"] == "cancelled"
    desk.wait(lambda: bought in daemon.sold)
    sold = daemon.sold[bought]
    assert sold["tokens"] == desk.look(name)["usage"]["total_tokens"]
    assert sold["paid"] == pytest.approx(sold["tokens"] * 1.1 / 1e6)


def test_a_sale_that_the_planner_refuses_is_not_owed(desk, daemon):
    priced(desk, daemon, 1.0, 1.0)
    daemon.refuse = (422, {"error": "pool: no"})
    bought = ask(desk, 1000).json()["id"]
    desk.call("POST", f"/v1/quotes/{bought}/accept")
    desk.wait(lambda: desk.call("GET", f"/v1/quotes/{bought}").json()["status"] == "cancelled")
    desk.wait(lambda: bought in daemon.sold)
    assert daemon.sold[bought]["paid"] == 0


def test_a_batch_must_fit_its_quote(desk, daemon):
    priced(desk, daemon, 1.0, 1.0)
    name = ask(desk, 500).json()["id"]
    file = desk.upload(asked(["a", "b"]))
    assert desk.create(file, metadata={"quote": name}).status_code == 409, "not bought yet"
    desk.call("POST", f"/v1/quotes/{name}/accept")
    assert desk.create(file, OTHER_KEY, metadata={"quote": name}).status_code == 404
    found = desk.ended(desk.create(file, metadata={"quote": name}).json()["id"])
    assert found["errors"]["data"][0]["code"] == "quote_too_small"


def test_a_batch_pays_the_price_of_its_time_and_never_more_than_its_bid(desk, daemon):
    priced(desk, daemon, 3.0, minutes=600)
    plain = desk.ended(desk.batch(["a"]))
    assert plain["gridpace"]["paid"] == pytest.approx(12 * 3.0 / 1e6)
    bid = desk.ended(desk.batch(["a"], metadata={"max_price_per_million_tokens": "2"}))
    assert bid["gridpace"]["paid"] == pytest.approx(12 * 2.0 / 1e6)
    told = desk.wait(lambda: daemon.progress.get(bid["id"]))
    assert told["sold"] == {"tokens": 12, "paid": bid["gridpace"]["paid"], "tenant": "research", "model": "tiny"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "huge"}, "model"),
        ({"tokens": 0}, "tokens"),
        ({"tokens": 1.5}, "tokens"),
        ({"tokens": True}, "tokens"),
        ({"deadline": "2d"}, "deadline"),
        ({"deadline": "soon"}, "deadline"),
        ({"max_price_per_million_tokens": "nan"}, "max_price_per_million_tokens"),
    ],
)
def test_a_wrong_question_names_its_parameter(desk, daemon, body, param):
    answer = desk.call("POST", "/v1/quotes", json={"model": "tiny", "tokens": 10} | body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_limits_of_a_tenant_tell_when_to_come_again(desk, daemon):
    priced(desk, daemon, 1.0, 1.0)
    answers = [ask(desk, 1) for _ in range(21)]
    assert [one.status_code for one in answers] == [200] * 20 + [429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 60
    with desk.session(OTHER_KEY) as session:
        codes = [session.get(f"{desk.url}/v1/models").status_code for _ in range(60)]
    assert 429 in codes, "the product's tenant may ask ten times a second"
    assert set(codes) == {200, 429}
