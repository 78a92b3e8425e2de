"""The gateway's own metrics, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from scheduler.gateway.gateway import Gateway


def metrics_text(gateway: Gateway, *, by_tenant: bool = False) -> bytes:
    """Everything as it is now. `by_tenant`: who asks may know the tenants and what each has done."""
    registry = CollectorRegistry()
    registry.register(_Collector(gateway, by_tenant))
    return generate_latest(registry)


class _Collector:
    def __init__(self, gateway: Gateway, by_tenant: bool) -> None:
        self._gateway, self._by_tenant = gateway, by_tenant

    def collect(self) -> Iterable[Metric]:
        """The families."""
        yield from self._runners()
        yield from self._work()
        yield from self._moves()

    def _runners(self) -> Iterable[Metric]:
        under_way = GaugeMetricFamily(
            "gridpace_gateway_requests_in_flight", "Requests under way at a server.", labels=["upstream"]
        )
        slots = GaugeMetricFamily(
            "gridpace_gateway_slots", "Requests that the plan allows at a server.", labels=["upstream"]
        )
        up = GaugeMetricFamily("gridpace_gateway_upstream_up", "1 while a server takes requests.", labels=["upstream"])
        for name, runner in self._gateway.runners.items():
            under_way.add_metric([name], runner.in_flight)
            slots.add_metric([name], runner.slots)
            up.add_metric([name], 0.0 if runner.trouble else 1.0)
        daemon = GaugeMetricFamily(
            "gridpace_gateway_daemon_up",
            "1 while the daemon answers.",
            value=0.0 if self._gateway.talk.trouble else 1.0,
        )
        disk = GaugeMetricFamily(
            "gridpace_gateway_disk_up",
            "1 while the disk takes what must be kept.",
            value=0.0 if self._gateway.disk.trouble else 1.0,
        )
        yield from (under_way, slots, up, daemon, disk)

    def _work(self) -> Iterable[Metric]:
        batches = GaugeMetricFamily("gridpace_gateway_batches", "Batches that are kept.", labels=["status"])
        whose = ["tenant"] if self._by_tenant else []
        requests = CounterMetricFamily(
            "gridpace_gateway_requests", "Requests answered, of batches that are kept.", labels=[*whose, "result"]
        )
        tokens = CounterMetricFamily(
            "gridpace_gateway_tokens", "Tokens by the servers' own count.", labels=[*whose, "kind"]
        )
        kept = self._gateway.shelf.batches()
        for status, number in Counter(one.status.value for one in kept).items():
            batches.add_metric([status], number)
        sums: Counter[tuple[str, ...]] = Counter()
        for one in kept:
            labels = (one.tenant,) if self._by_tenant else ()
            sums[*labels, "completed"] += one.completed
            sums[*labels, "failed"] += one.failed
            sums[*labels, "input"] += one.input_tokens
            sums[*labels, "output"] += one.output_tokens
        for found, number in sums.items():
            (requests if found[-1] in {"completed", "failed"} else tokens).add_metric(found, number)
        yield from (batches, requests, tokens)

    def _moves(self) -> Iterable[Metric]:
        """Batches at other sites, and what was done to bring them there and back."""
        away = GaugeMetricFamily(
            "gridpace_gateway_batches_away", "Batches at another site, by how far that is.", labels=["site", "leg"]
        )
        steps = CounterMetricFamily(
            "gridpace_gateway_moves",
            "Steps of hand-overs since the start: released, taken, refused, home, forgone.",
            labels=["site", "step"],
        )
        up = GaugeMetricFamily("gridpace_gateway_site_up", "1 while another site answers.", labels=["site"])
        mover = self._gateway.mover
        for (site, leg), number in Counter(
            (one.away, one.leg.value) for one in self._gateway.shelf.batches() if one.leg is not None
        ).items():
            away.add_metric([site, leg], number)
        for (site, step), number in sorted(mover.steps.items()):
            steps.add_metric([site, step], number)
        for site in mover.peers:
            up.add_metric([site], 0.0 if site in mover.trouble else 1.0)
        yield from (away, steps, up)
