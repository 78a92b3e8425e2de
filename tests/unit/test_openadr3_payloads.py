"""OpenADR 3's payloads: each type mapped or refused aloud, units parsed, conflicts by priority and then strictness."""

import math

import pytest

from adapters.dr.openadr3.objects import Descriptor, read_event
from adapters.dr.openadr3.payloads import OBEYED, PRICES, UNUSED
from tests.support.openadr3 import HOUR, NOON, capacity, caps, config, orders, payload, period, simple, units

FULL = {
    "instructions": {"SHED-A": "-20%"},
    "offsets": {"1": "-5%", "10": "-1MW"},
    "relative_sense": "positive_reduces",
    "offset_sense": "negative_reduces",
    "setpoint": "negative_reduces",
}
ALERTS = ("GRID_EMERGENCY", "BLACK_START", "POSSIBLE_OUTAGE", "FLEX_ALERT", "FIRE", "FREEZING", "WIND", "TSUNAMI")


def one(kind, *values, unit="KW", **settings):
    event = {"id": "e1", "programID": "p1", "intervals": [{"id": 0, "payloads": [payload(kind, *values)]}]}
    event |= period(NOON + HOUR, "PT1H") | ({"payloadDescriptors": [units(kind, unit)]} if unit else {})
    (message,) = orders(event, **settings).messages
    if message.fault:
        return message.fault
    target = message.targets[0]
    return target.limit_kw, target.reduce_kw, target.reduce_percent


@pytest.mark.parametrize(
    ("kind", "value", "unit", "asked"),
    [
        ("IMPORT_CAPACITY_LIMIT", 4000, "KW", (4000, None, None)),
        ("IMPORT_CAPACITY_LIMIT", 4, "MW", (4000, None, None)),
        ("IMPORT_CAPACITY_LIMIT", 0, "kW", (0, None, None)),
        ("IMPORT_CAPACITY_SUBSCRIPTION", 240.5, "KW", (240.5, None, None)),
        ("CAPACITY_SUBSCRIPTION", 240, "KW", (240, None, None)),
        ("DISPATCH_SETPOINT", 0, "KW", (0, None, None)),
        ("DISPATCH_SETPOINT_RELATIVE", 300, "KW", (None, 300, None)),
        ("DISPATCH_INSTRUCTION", "SHED-A", None, (None, None, 20)),
        ("CONTROL_LEVEL_OFFSET", 1, None, (None, None, 5)),
        ("CONTROL_LEVEL_OFFSET", 10, None, (None, 1000, None)),
        ("CONTROL_LEVEL_OFFSET_PERCENT", -0.3, "PERCENT", (None, None, 30)),
        ("CONTROL_SETPOINT", -150, "KW", (None, 150, None)),
        ("SIMPLE", 1, None, (None, None, 10)),
        ("SIMPLE", 3, None, (None, None, 50)),
        ("ALERT_GRID_EMERGENCY", "out of reserve", None, (None, None, 40)),
    ],
)
def test_every_order_becomes_a_target(kind, value, unit, asked):
    assert one(kind, value, unit=unit, **FULL) == asked


@pytest.mark.parametrize(
    ("kind", "value", "unit", "said"),
    [
        ("IMPORT_CAPACITY_LIMIT", 4000, None, "no unit is declared"),
        ("IMPORT_CAPACITY_LIMIT", 4000, "KWH", '"KWH" is not a unit of power'),
        ("IMPORT_CAPACITY_LIMIT", 4000, "furlongs", "is not a unit of power"),
        ("IMPORT_CAPACITY_LIMIT", -1, "KW", "below 0"),
        ("IMPORT_CAPACITY_LIMIT", "4000", "KW", "is not a number"),
        ("IMPORT_CAPACITY_LIMIT", True, "KW", "is not a number"),
        ("IMPORT_CAPACITY_LIMIT", math.nan, "KW", "is not a number"),
        ("IMPORT_CAPACITY_LIMIT", {"x": 1, "y": 2}, "KW", "is not a number"),
        ("SIMPLE", "2", None, "is not a number"),
        ("SIMPLE", 4, None, "level 4 is not 0 to 3"),
        ("SIMPLE", 1.5, None, "not a whole number"),
        ("DISPATCH_SETPOINT_RELATIVE", 300, "KW", "say it with `relative_sense`"),
        ("CONTROL_LEVEL_OFFSET_PERCENT", -0.3, "PERCENT", "say it with `offset_sense`"),
        ("CONTROL_LEVEL_OFFSET_PERCENT", 30, "PERCENT", "not between -1 and 1"),
        ("CONTROL_SETPOINT", 1, "KW", "say it with `setpoint`"),
        ("DISPATCH_INSTRUCTION", "unheard of", None, 'no response to "unheard of"'),
        ("CONTROL_LEVEL_OFFSET", 3, None, 'no response to "3"'),
        ("ALERT_FLEX_ALERT", "please", None, "ALERT_FLEX_ALERT (please): the config has no response"),
    ],
)
def test_case_20_what_can_not_be_followed_is_refused_aloud_and_by_name(kind, value, unit, said):
    fault = one(kind, value, unit=unit)
    assert said in fault
    assert kind in fault


def test_case_20_one_payload_that_is_refused_hides_no_other():
    event = capacity(4000, each="PT1H")
    event["intervals"][0]["payloads"] += [payload("X-PRIVATE", "?"), payload("SIMPLE", "2"), payload("OLS", 0.5)]
    found = orders(event)
    assert caps(found) == {"e1": [(1, 2, 4000)]}
    said = " ".join(fault.text for fault in found.faults)
    assert "X-PRIVATE: this type is not known" in said
    assert "SIMPLE" in said
    assert "OLS: a load shape is no order" in said


def test_every_type_of_the_enumeration_is_mapped_or_refused_with_a_reason():
    known = {*OBEYED, *PRICES, *UNUSED, *(f"ALERT_{name}" for name in ALERTS)}
    for kind in known - PRICES:
        event = {"id": "e1", "intervals": [{"id": 0, "payloads": [payload(kind, 1)]}]} | period(NOON, "PT1H")
        found = orders(event, **FULL | {"offset_sense": "positive_reduces", "setpoint": "absolute"})
        assert found.messages or found.faults, kind
        assert "not known" not in " ".join(fault.text for fault in found.faults), kind


def test_a_price_asks_nothing_and_is_no_fault():
    event = {"id": "e1", "intervals": [{"id": 0, "payloads": [payload("PRICE", 0.17)]}]} | period(NOON, "PT1H")
    found = orders(event)
    assert (found.messages, found.faults) == ([], [])


def test_the_programs_own_descriptor_counts_where_the_event_has_none():
    descriptor = Descriptor.model_validate({"payloadType": "IMPORT_CAPACITY_LIMIT", "units": "MW"})
    found = orders(capacity(4, unit=None), descriptors=[descriptor])
    assert caps(found) == {"e1": [(1, 1.5, 4000)]}
    assert caps(orders(capacity(4, unit=None), unit="MW")) == {"e1": [(1, 1.5, 4000)]}


def test_level_zero_is_normal_and_asks_nothing():
    assert caps(orders(simple(0, 2, 0))) == {"e1": [(2, 3, 25)]}


def test_case_18_a_limit_that_can_not_be_read_leaves_the_one_before_it_in_force():
    found = orders(capacity(4000, "much", 3000, each="PT1H"))
    assert caps(found) == {"e1": [(1, 2, 4000), (2, 3, 4000), (3, 4, 3000)]}
    assert (found.unread_limits, found.faults[0].alert) == ({"e1"}, True)
    assert caps(orders(simple(1, "much", 2))) == {"e1": [(1, 2, 10)], "e1~20260701T150000Z": [(3, 4, 25)]}


def test_each_text_of_a_dispatch_instruction_is_followed_or_refused_by_its_name():
    texts = payload("DISPATCH_INSTRUCTION", "hello", "SHED-A", "B")
    event = {"id": "e1", "intervals": [{"id": 0, "payloads": [texts]}]}
    found = orders(event | period(NOON + HOUR, "PT1H"), **FULL | {"instructions": {"SHED-A": "-20%", "B": "-5%"}})
    assert caps(found) == {"e1": [(1, 2, 20)], "e1~1": [(1, 2, 5)]}
    assert [fault.text for fault in found.faults] == [
        'DISPATCH_INSTRUCTION: the config has no response to "hello" in `instructions`'
    ]


def test_a_limit_and_a_level_of_one_event_are_two_orders():
    event = capacity(4000, each="PT1H")
    event["intervals"][0]["payloads"].append(payload("SIMPLE", 2))
    assert caps(orders(event)) == {"e1": [(1, 2, 4000)], "e1~SIMPLE": [(1, 2, 25)]}


def test_an_alert_is_an_emergency():
    event = {"id": "e1", "intervals": [{"id": 0, "payloads": [payload("ALERT_GRID_EMERGENCY", "now")]}]}
    event |= period("0001-01-01", "P9999Y")
    (message,) = orders(event).messages
    assert message.emergency
    assert message.standing
    assert message.start == NOON


def test_case_13_of_the_same_kind_the_higher_priority_holds_and_it_is_said():
    low, high = capacity(3000, each="PT4H", priority=5), capacity(4000, start=NOON + 2 * HOUR, each="PT1H", priority=0)
    found = orders(low, high | {"id": "e2"})
    assert caps(found) == {"e1": [(1, 2, 3000), (2, 3, 4000), (3, 5, 3000)], "e2": [(2, 3, 4000)]}
    (fault,) = found.faults
    assert fault.conflict
    assert "priority 5 yields" in fault.text
    nameless = {key: value for key, value in low.items() if key != "priority"}
    assert caps(orders(nameless, high | {"id": "e2"}))["e1"] == caps(found)["e1"], "no priority is the lowest"


def test_case_13_of_equal_priority_both_are_kept_for_the_stricter_to_hold():
    found = orders(capacity(3000, each="PT4H"), capacity(4000, each="PT1H") | {"id": "e2"})
    assert caps(found) == {"e1": [(1, 5, 3000)], "e2": [(1, 2, 4000)]}
    assert found.faults == []


def test_case_13_orders_of_different_kinds_do_not_contradict():
    level = simple(1, each="PT4H", priority=9)
    assert caps(orders(level, capacity(4000, priority=0) | {"id": "e2"}))["e1"] == [(1, 5, 10)]


def test_case_19_where_limits_run_out_the_subscription_holds_with_what_is_reserved():
    subscription = capacity(240, kind="IMPORT_CAPACITY_SUBSCRIPTION", start=NOON - HOUR, each="P9999Y")
    limits = capacity(100, 80, start=NOON + HOUR) | {"id": "limits"}
    found = caps(orders(subscription, limits))
    assert found["limits"] == [(1, 1.5, 100), (1.5, 2, 80)]
    assert found["e1"] == [(-1, 1, 240), (1, 1.5, 100), (1.5, 2, 80), (2, 36, 240)]
    reserved = capacity(2, kind="IMPORT_CAPACITY_RESERVATION", start=NOON + 3 * HOUR, each="PT1H") | {"id": "more"}
    assert caps(orders(subscription, reserved))["e1"] == [(-1, 3, 240), (3, 4, 242), (4, 36, 240)]


def test_case_18_an_event_whose_times_can_not_be_read_is_kept_as_unread_and_alarms_for_a_limit():
    found = orders(capacity(4000, start="when it suits"), simple(2) | {"id": "e2"})
    assert found.unread == {"e1"}
    assert found.faults[0].alert
    assert list(caps(found)) == ["e2"]


def test_responses_are_checked_where_they_are_written():
    for wrong in ({"levels": {"1": "25%"}}, {"levels": {"1": "-125%"}}, {"levels": {"4": "-25%"}},
                  {"alerts": {"ALERT_FIRE": "soon"}}, {"offsets": {"11": "-5%"}}, {"url": "http://vtn.example.net"},
                  {"client_id": "x"}, {"callback": "https://me"}, {"poll": "0s"},
                  {"token_url": "http://login.example.net/"}):  # fmt: skip
        with pytest.raises(ValueError, match=r"response|levels|offsets|encrypted|together|at least"):
            config(**wrong)
    assert config(url="http://127.0.0.1:8080/x").url == "http://127.0.0.1:8080/x"


def test_targets_of_both_versions_are_read():
    event = read_event({"id": "e", "targets": [{"type": "GROUP", "values": ["a"]}, "b"], "intervals": None})
    assert event.targets == [{"type": "GROUP", "values": ["a"]}, "b"]
