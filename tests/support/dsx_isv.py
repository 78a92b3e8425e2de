"""The other side of DSX Flex: an isv with keys of its own that orders over MQTT and hears what the agent says."""

import json
import threading
import time
from datetime import UTC, datetime
from uuid import uuid4

from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey
from paho.mqtt.client import Client, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from ruamel.yaml import YAML

from tests.support.dsx_rules import check
from tests.support.power_worlds import wait_until

SETTING = """type: dsxflex, broker: "mqtt://127.0.0.1:{port}", agent: lab-flex, isv: acme, feed: main-a,
  sign_kid: lab-1, sign_key: "file:lab.pem", heartbeat: 2s, breach_after: 2s, infra: ima,
  trusted: [{{kid: acme-1, source: isv/acme, file: acme.pub}}, {{kid: acme-2, source: isv/acme, file: acme-rsa.pub}},
            {{kid: ima-1, source: infra/ima, file: ima.pub}}]"""


def write_keys(folder):
    """Key files of the agent, of the isv (P-256 and RSA) and of the infrastructure."""
    makers = {"lab": _ec, "acme": _ec, "acme-rsa": _rsa, "ima": _ec}
    for name, make in makers.items():
        key = make()
        (folder / f"{name}.pem").write_bytes(
            key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
        )
        (folder / f"{name}.pem").chmod(0o600)
        (folder / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        )


def _ec():
    return ec.generate_private_key(ec.SECP256R1())


def _rsa():
    return rsa.generate_private_key(65537, 2048)


def moment(at):
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def target(kw, start=None, end=None, *, feeds=None, best_effort=None, unit="kilowatt"):
    """One entry of `targets`; kw None clears."""
    interval = {name: moment(at) for name, at in (("start_time", start), ("end_time", end)) if at is not None}
    found = {"interval": interval, "load_constraint": None if kw is None else {"value": kw, "unit": unit}}
    if feeds is not None:
        found["feed_tags"] = feeds
    if best_effort is not None:
        found["strategy"] = {"best_effort": best_effort}
    return found


def setting(port, **changes):
    """The channel of SETTING as a mapping."""
    return YAML(typ="safe").load("{" + SETTING.format(port=port) + "}") | changes


def offline_isv(folder):
    """An isv that only makes messages."""
    isv = Isv.__new__(Isv)
    isv.name, isv.kid, isv.folder = "acme", "acme-1", folder
    isv.key = ECKey.import_key((folder / "acme.pem").read_text())
    return isv


class Isv:
    """Connected to a broker; `heard` are (topic, envelope, verified data) of the agent."""

    def __init__(self, folder, port, name="acme", kid="acme-1", key="acme.pem", tls=None):
        self.name, self.kid, self.folder = name, kid, folder
        text = (folder / key).read_text()
        self.key = RSAKey.import_key(text) if "rsa" in key else ECKey.import_key(text)
        self.agent_key = ECKey.import_key((folder / "lab.pub").read_text())
        self.heard, self.lock = [], threading.Lock()
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=f"isv-{uuid4()}", protocol=MQTTv311)
        self.client.on_message = self._hear
        self.client.on_connect = lambda client, *_: client.subscribe("grid/v1/dsx-flex-agent/#", 2)
        self.client.reconnect_delay_set(1, 1)
        self.client.max_inflight_messages_set(200)
        if tls is not None:
            self.client.tls_set_context(tls)
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()
        wait_until(self.client.is_connected)

    def _hear(self, client, userdata, message):
        envelope = json.loads(message.payload)
        data = json.loads(jws.deserialize_compact(envelope["data"], self.agent_key, algorithms=["ES256"]).payload)
        with self.lock:
            self.heard.append((message.topic, envelope, data))

    def states(self):
        """Power states of the feed so far."""
        with self.lock:
            return [data["feeds"]["main-a"] for topic, _, data in self.heard if topic.endswith("/status")]

    def alerts(self):
        with self.lock:
            return [data for topic, _, data in self.heard if topic.endswith("/powerbreach")]

    def sign(self, data, kid=None, key=None):
        """Signed data; `key`: a file in place of our own key."""
        key = self.key if key is None else ECKey.import_key((self.folder / key).read_text())
        header = {"alg": "RS256" if isinstance(key, RSAKey) else "ES256", "kid": kid or self.kid}
        return jws.serialize_compact(header, json.dumps(data), key, algorithms=["ES256", "RS256"])

    def envelope(self, *targets, **changes):
        """A whole `loadtarget.set`; `changes` replace attributes (None: left out)."""
        fields = {
            "specversion": "1.0.2",
            "id": str(uuid4()),
            "source": f"//grid/v1/isv/{self.name}",
            "type": "grid.loadtarget.set.v1",
            "time": moment(datetime.now(UTC)),
            "datacontenttype": "application/json",
            "subject": "loadtarget",
            "traceparent": f"00-{uuid4().hex}-{uuid4().hex[:16]}-01",
            "correlationid": str(uuid4()),
            "data": self.sign({"targets": list(targets)}),
        } | changes
        return {name: value for name, value in fields.items() if value is not None}

    def publish(self, body, *, retain=False, qos=1, topic=None):
        """Publish bytes or an envelope, and wait until the broker has it."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = self.client.publish(topic or f"grid/v1/isv/{self.name}/loadtarget/set", data, qos, retain)
        sent.wait_for_publish(10)

    def post(self, *targets):
        """Order, and go on at once."""
        self.client.publish(f"grid/v1/isv/{self.name}/loadtarget/set", json.dumps(self.envelope(*targets)), 1)

    def set(self, *targets, **more):
        """Order; returns the envelope."""
        envelope = self.envelope(*targets, **more)
        self.publish(envelope)
        return envelope

    def wait_state(self, true, seconds=10):
        """The first power state that fits."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            found = next((state for state in self.states() if true(state)), None)
            if found is not None:
                return found
            time.sleep(0.02)
        raise AssertionError(f"no such power state in {seconds} s: {self.states()[-3:]}")

    def close(self):
        """End, once every message that was heard keeps the rules."""
        self.client.disconnect()
        self.client.loop_stop()
        for heard in self.heard:
            check(*heard)
