"""What DSX Flex 1.7 demands of an agent's messages, by hand from the AsyncAPI document's rules."""

import re
from datetime import datetime
from uuid import UUID

UNITS = {"watt", "kilowatt", "megawatt"}
EVENTS = {"target_set", "start_ramp_down", "end_ramp_down", "start_ramp_up", "end_ramp_up", "periodic"}
STATUS, ALERT = "grid.powerstate.status.v1", "grid.powerbreach.alert.v1"
FEED = {"metadata", "targets", "calculated_load", "in_flight", "event", "compliant"}
BREACH = {"feed_tag", "status", "severity", "breach", "target", "measured_load", "infrastructure_actions"}


def check(topic, envelope, data):
    """AssertionError where a message breaks a rule."""
    assert envelope["specversion"] == "1.0.2"
    assert UUID(envelope["id"]).version == 4
    assert re.fullmatch(r"//grid/v1/(isv|dsx-flex-agent|infra)/[^/]+", envelope["source"])
    assert envelope["datacontenttype"] == "application/json"
    assert re.fullmatch(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", envelope["traceparent"])
    assert re.fullmatch(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", envelope["data"])
    moment(envelope["time"])
    path = {STATUS: ("powerstate/status", "powerstate"), ALERT: ("powerbreach", "powerbreach")}[envelope["type"]]
    assert (topic.split("/", 4)[4], envelope["subject"]) == path
    (state if envelope["type"] == STATUS else alert)(data)


def state(data):
    moment(data["snapshot_time"])
    for feed in data["feeds"].values():
        assert feed.keys() >= FEED
        assert feed["event"] in EVENTS
        assert feed["metadata"].keys() >= {"power_minimum", "power_maximum", "default_constraint"}
        for value in (*feed["metadata"].values(), feed["calculated_load"]):
            power(value)
        assert {type(feed["in_flight"]), type(feed["compliant"])} == {bool}
        if "power_event_start_time" in feed:
            moment(feed["power_event_start_time"])
        for target in feed["targets"]:
            assert target.keys() >= {"active", "load_constraint", "interval", "strategy", "correlation_id"}
            power(target["load_constraint"])
            UUID(target["correlation_id"])
            for at in target["interval"].values():
                moment(at)


def alert(data):
    assert data.keys() >= BREACH
    assert data["status"] in {"active", "escalated", "resolved"}
    assert data["severity"] in {"warning", "critical"}
    UUID(data["breach"]["breach_id"])
    moment(data["breach"]["detected_at"])
    over = data["status"] != "resolved"
    assert ("resolved_at" in data["breach"]) != over
    assert ("shed_hints" in data) == over
    assert over or data["infrastructure_actions"] == []
    UUID(data["target"]["correlation_id"])
    power(data["target"]["load_constraint"])
    power(data["measured_load"])
    for hint in data.get("shed_hints", []):
        assert hint["resource_type"] in {"node", "gpu", "chassis"}
        assert hint["action"] in {"power_cap", "throttle", "suspend"}
        assert hint["priority"] >= 1
        if hint["action"] == "power_cap":
            power(hint["target_power"])


def power(value):
    assert value["value"] >= 0
    assert value["unit"] in UNITS


def moment(text):
    assert datetime.fromisoformat(text).utcoffset() is not None
