"""Live sources of any type on the loopback, made as the registry makes them."""

from datetime import timedelta

from adapters import registry
from adapters.context import AdapterContext
from scheduler.clock import VirtualClock
from tests.support.signals import NOON

MINUTE = timedelta(minutes=1)
OWN = {
    "type": "http_json", "rows": "data.prices", "time": "t", "value": "p.amount", "unit": "USD/MWh",
    "interval": "1h", "timeout": "5s", "refresh": "10m",
}  # fmt: skip
OWN_PATH = "/own/spot?from={start}&to={end}"


def at(clock, moment):
    """Let the clock go on to `moment`."""
    clock.sleep((moment - clock.now()).total_seconds())


def make(base, clock=None, base_dir=None, currency="USD", **fields):
    own = fields.get("type", "http_json") == "http_json"
    fields = ({"id": "it", **OWN} if own else {"id": "it"}) | fields
    fields.setdefault("url", base + OWN_PATH if own else base)
    config = registry.config_model("signals", fields["type"]).model_validate(fields)
    return registry.create("signals", config, AdapterContext(clock or VirtualClock(NOON), base_dir, currency=currency))


def values(got):
    return [(span.start, span.value) for span in got.spans]
