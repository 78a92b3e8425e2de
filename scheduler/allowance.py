"""No GPU is set above the limit found on it, which may protect a breaker or a cooler, but for those that the operator
named a highest cap for (`raisable`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from adapters.ports import GpuId


def within(gpu: GpuId, cap_w: int, first_w: Mapping[GpuId, float], raisable: Collection[GpuId]) -> int:
    """The order for one GPU, whose limit may have been found (`first_w`)."""
    if gpu in raisable or gpu not in first_w:
        return cap_w
    return min(cap_w, int(first_w[gpu]))


def allowed(
    caps_w: Mapping[GpuId, int], first_w: Mapping[GpuId, float], raisable: Collection[GpuId]
) -> Mapping[GpuId, int]:
    """The orders for GPUs whose limit was found; these very ones where none is above it, as good as always: of a
    hundred thousand cards somebody waits for the first."""
    if caps_w and max(caps_w.values()) <= min(first_w.values(), default=0.0) and caps_w.keys() <= first_w.keys():
        return caps_w
    return {gpu: within(gpu, cap, first_w, raisable) for gpu, cap in caps_w.items() if gpu in first_w}
