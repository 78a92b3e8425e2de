"""A copy of one kind of object in one namespace, kept by a watch that resumes.

A watch that ends or is cut goes on from the version last seen, bookmarks included, so nothing is missed and nothing is
asked twice; where the server has forgotten that version (410 Gone), or was away, everything is listed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Generic, TypeVar

import structlog

from adapters.jobs.kube_api import GONE, NOT_FOUND, Kind, KubeApi, KubeLost, KubeRefused
from adapters.ports import AdapterError

log = structlog.get_logger("gridpace.kubernetes")
T = TypeVar("T")
LONGEST_PAUSE_S = 15.0


class Mirror(Generic[T]):
    """`read` makes what is kept of an object (None: nothing); `changed` is called after every change."""

    def __init__(
        self,
        api: KubeApi,
        kind: Kind,
        namespace: str,
        read: Callable[[Mapping[str, Any]], T | None],
        changed: Callable[[], None],
        watch_s: float,
    ) -> None:
        self._api, self._kind, self._namespace = api, kind, namespace
        self._read, self._changed, self._watch_s = read, changed, max(1, round(watch_s))
        self._lock, self._ended, self.synced = threading.Lock(), threading.Event(), threading.Event()
        self._items: dict[str, T] = {}
        self._odd: dict[str, str] = {}
        self._trouble = ""
        self._version = ""
        self._watching: Any = None
        self._thread = threading.Thread(target=self._work, name=f"gridpace-{kind.plural}-{namespace}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def seen(self) -> tuple[dict[str, T], dict[str, str], str]:
        """Objects by name, what could not be understood, and what is wrong now ("" nothing)."""
        with self._lock:
            return dict(self._items), dict(self._odd), self._trouble

    def stop(self, wait_s: float) -> None:
        """End the watch and the thread."""
        self._ended.set()
        if self._watching is not None:
            self._watching.stop()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _work(self) -> None:
        pause_s = 0.5
        while not self._ended.is_set():
            began = monotonic()
            try:
                if not self._version:
                    self._list()
                    pause_s = 0.5
                self._follow()
            except AdapterError as error:
                if not self._failed(error, monotonic() - began):
                    continue
                self._ended.wait(pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            except Exception as error:  # the watch must outlive whatever happens
                log.exception("kubernetes.watch_failed", kind=self._kind.plural)
                self._lost(f"{type(error).__name__}; the log says more")
                self._ended.wait(pause_s)

    def _failed(self, error: AdapterError, lasted_s: float) -> bool:
        """Whether to pause: a version that the server has forgotten, and a watch that was cut after a while, go on at
        once."""
        if isinstance(error, KubeRefused) and error.status == GONE and self._version:  # a list that is Gone is not
            self._version = ""
            return False
        if isinstance(error, KubeLost) and self._version and lasted_s > 1.0:
            return False  # cut: resumed from the version last seen
        if isinstance(error, KubeRefused) and error.status == NOT_FOUND:
            error = AdapterError(f"{error}: is {self._kind.group} {self._kind.version} installed?")
        self._lost(str(error))
        return True

    def _lost(self, why: str) -> None:
        with self._lock:
            new, self._trouble, self._version = why != self._trouble, why, ""
        if new and not self._ended.is_set():
            log.warning("kubernetes.lost", why=why)
        self._changed()

    def _list(self) -> None:
        items, version = self._api.list(self._kind, self._namespace)
        with self._lock:
            self._items, self._odd = {}, {}
            for item in items:
                self._take(item)
            self._version, self._trouble = version, ""
        self.synced.set()
        self._changed()

    def _follow(self) -> None:
        """One watch. It may end before its time (a server or a proxy that restarts), but not turn in a tight loop."""
        began = monotonic()
        for sort, item in self._api.watch(self._kind, self._namespace, self._version, self._watch_s, self._begun):
            with self._lock:
                if sort == "DELETED":
                    self._items.pop(item["metadata"]["name"], None)
                    self._odd.pop(item["metadata"]["name"], None)
                elif sort != "BOOKMARK":
                    self._take(item)
                self._version = str(item["metadata"]["resourceVersion"])
            if sort != "BOOKMARK":
                self._changed()
            if self._ended.is_set():
                return
        if monotonic() - began < 0.5:
            self._ended.wait(0.5)

    def _begun(self, watching: Any) -> None:
        self._watching = watching

    def _take(self, item: Mapping[str, Any]) -> None:
        name = str(item["metadata"]["name"])
        self._items.pop(name, None)
        self._odd.pop(name, None)
        try:
            kept = self._read(item)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            self._odd[name] = f"{type(error).__name__} {error}"
            return
        if kept is not None:
            self._items[name] = kept
