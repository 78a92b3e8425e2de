"""What the gateway asks of the daemon: take a batch as a job, say how many GPUs it has, hear of its progress.

Why grants are kept while the daemon is silent: the node agents hold the power then, so running on is safe, and an
answer a second later is the usual case. That it happens is said in the gateway's health.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp

TIMEOUT_S = 5.0


class DaemonError(Exception):
    """The daemon did not do it; `status` is its HTTP status, 0 when it can't be reached."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Daemon:
    """The daemon at `url`, by a token that may write."""

    def __init__(self, url: str, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))

    async def submit(self, job: Mapping[str, Any]) -> None:
        """Queue a job; again is the same. Raises DaemonError."""
        await self._ask("POST", "/api/v1/jobs", job)

    async def grants(self) -> tuple[dict[str, int], dict[str, str]]:
        """GPUs of every job that has some now, and the site where a coordinator wants jobs that may move. Raises
        DaemonError."""
        found = await self._ask("GET", "/api/v1/jobs/grants")
        try:
            homes = {str(job): str(home["site"]) for job, home in found.get("homes", {}).items()}
            return {str(job): int(grant["gpus"]) for job, grant in found["grants"].items()}, homes
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DaemonError(f"{self.url}: what answers there is not Gridpace") from None

    async def progress(
        self,
        job: str,
        done_gpu_h: float,
        finished: bool,
        sold: Mapping[str, Any],
        place: Mapping[str, Any] | None = None,
    ) -> None:
        """Report work done, what was sold, and the `place` of a job that may move: at which other `site` it is worked
        on, and which `sites` still may. Raises DaemonError."""
        body = {"done_gpu_h": done_gpu_h, "finished": finished, "sold": sold, **(place or {})}
        await self._ask("POST", f"/api/v1/jobs/{job}/progress", body)

    async def sold(self, job: str, sold: Mapping[str, Any]) -> None:
        """Tell what was sold of a job that is over. Raises DaemonError."""
        await self._ask("PUT", f"/api/v1/jobs/{job}/sold", sold)

    async def quotes(self) -> Mapping[str, Any]:
        """What the plan in force quotes. Raises DaemonError (404 before the first plan)."""
        found = await self._ask("GET", "/api/v1/quotes")
        if not isinstance(found, dict):
            raise DaemonError(f"{self.url}: what answers there is not Gridpace")
        return found

    async def cancel(self, job: str) -> None:
        """Withdraw a job; one that is unknown or over is fine. Raises DaemonError."""
        try:
            await self._ask("DELETE", f"/api/v1/jobs/{job}")
        except DaemonError as error:
            if error.status not in {404, 409}:
                raise

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            async with self._session.request(method, self.url + path, json=body) as answer:
                if answer.status >= 400:
                    raise DaemonError(f"{self.url}: {await _said(answer)}", answer.status)
                return await answer.json(content_type=None)
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:  # noqa: UP041 - aiohttp's own name
            raise DaemonError(f"{self.url}: {str(error) or type(error).__name__}") from None


async def _said(answer: aiohttp.ClientResponse) -> str:
    try:
        return str((await answer.json(content_type=None))["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status}"
