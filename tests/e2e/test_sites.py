"""Two sites and a coordinator: work goes where power is cheap, stays where it must, and survives cuts and kills."""

from collections import Counter
from contextlib import ExitStack

import pytest

from tests.support import system
from tests.support.sites import Sites

LINES = 300


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    system.require("gcc")
    with ExitStack() as stack:
        yield Sites(stack, tmp_path_factory.mktemp("sites"))


def words(kind, count=LINES):
    return [f"{kind} {k}" for k in range(count)]


def answered(desk, batch):
    """Answers of a batch by its lines' ids, as its client downloads them."""
    found = desk.look(batch)
    assert found["status"] == "completed", found
    rows = desk.lines(found["output_file_id"])
    assert found["request_counts"] == {"total": len(rows), "completed": len(rows), "failed": 0}
    return {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}, len(rows)


def whole(desk, batch, asked):
    """Every line was answered, once, with its own answer."""
    found, rows = answered(desk, batch)
    assert rows == len(asked) == len(found)
    assert found == {f"c-{k}": f"you said {word}" for k, word in enumerate(asked)}


@pytest.mark.timeout(240)
def test_a_batch_goes_where_power_is_cheap_and_one_that_may_not_leave_stays(sites):
    texas = sites.desks["texas"]
    sites.paces()
    free, bound = words("free"), words("bound", 24)
    batch = texas.batch(free, metadata={"project": "night"})
    held = texas.batch(bound, metadata={"sites": "none"})
    texas.wait(lambda: texas.look(batch)["gridpace"]["site"] == "california", 90)
    daemon = sites.machines["texas"].lives[-1]
    job = daemon.wait(lambda: (found := daemon.get(f"/api/v1/jobs/{batch}"))["site"] and found)
    assert (job["site"], job["reason"], job["gpus"]) == ("california", "elsewhere", 0)
    assert "20.00 USD/MWh at california" in job["why"]
    assert "240.00 at texas" in job["why"]
    assert "worked on at california" in daemon.get(f"/api/v1/explain/{batch}")["text"]
    texas.ended(batch, seconds=120)
    whole(texas, batch, free)
    asked = sites.asked()
    assert asked["texas"] + asked["california"] >= Counter(free), "every line was sent"
    assert all((asked["texas"] + asked["california"])[word] == 1 for word in free), "and none twice"
    assert sum(asked["california"][word] for word in free) > LINES / 2
    texas.ended(held, seconds=120)
    whole(texas, held, bound)
    assert not any(asked["california"][word] for word in bound), "its owner said that its data stays"
    daemon.wait(lambda: daemon.get(f"/api/v1/jobs/{batch}")["state"] == "done")
    told = texas.call("GET", "/metrics").text
    for step in ("released", "taken", "home"):
        assert f'gridpace_gateway_moves_total{{site="california",step="{step}"}}' in told
    assert 'gridpace_gateway_site_up{site="california"}' in told


@pytest.mark.kill
@pytest.mark.timeout(300)
def test_a_site_that_is_cut_off_and_kills_of_all_lose_no_line_and_double_none(sites):
    texas, california = sites.desks["texas"], sites.desks["california"]
    sites.paces()
    lines = words("cut")
    batch = texas.batch(lines)
    texas.wait(lambda: sum(sites.servers["california"].asked[word] for word in lines) > 5, 90)
    sites.kill()
    sites.cut(True)
    at_texas = sum(sites.servers["texas"].asked[word] for word in lines)
    texas.lives[-1].kill()
    texas.lives[-1].wait(10)
    texas.start()
    # The site that is cut off goes on with what it took; the other one with what it has.
    local = words("local", 12)
    other = texas.batch(local)
    california.wait(lambda: sum(site[word] for site in sites.asked().values() for word in lines) >= LINES, 120)
    texas.ended(other, seconds=90)
    whole(texas, other, local)
    assert not any(sites.servers["california"].asked[word] for word in local)
    assert texas.look(batch)["status"] == "in_progress"
    assert sum(sites.servers["texas"].asked[word] for word in lines) == at_texas, "nothing of it is sent here meanwhile"
    sites.cut(False)
    texas.ended(batch, seconds=90)
    whole(texas, batch, lines)
    both = sites.servers["texas"].asked + sites.servers["california"].asked
    assert all(both[word] == 1 for word in lines), "what was handed over had come back before, so no kill repeats it"
    sites.coordinate()
    again = texas.batch(words("again", 100))
    texas.wait(lambda: sum(sites.servers["california"].asked[f"again {k}"] for k in range(100)) > 0, 90)
    texas.ended(again, seconds=90)
    whole(texas, again, words("again", 100))
