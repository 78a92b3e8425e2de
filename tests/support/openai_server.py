"""An OpenAI-compatible server for tests that counts what it was asked, and can be slow, busy, broken or gone."""

import asyncio
import threading
from collections import Counter

from aiohttp import web


class OpenAiServer:
    """Answers in a thread of its own. `answer(body) -> (status, json, headers)` may be replaced, `delay_s` raised."""

    def __init__(self):
        self.now, self.port = 0, 0
        self.forget()
        self.open()

    def open(self):
        """Listen; after a `close` at the same port."""
        self._loop, self._stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
        serve = self._serve(ready)
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(serve), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def forget(self):
        """As if it had just begun."""
        self.asked, self.order, self.most, self.delay_s, self.answer = Counter(), [], 0, 0.0, good
        self.paths = Counter()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, ready):
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/{rest:.*}", self._one)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _one(self, request):
        body = await request.json()
        self.asked[word(body)] += 1
        self.paths[request.path] += 1
        self.order.append(word(body))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay_s)
            status, answer, headers = self.answer(body)
            return web.json_response(answer, status=status, headers=headers)
        finally:
            self.now -= 1

    def close(self):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
            self._loop.close()


def word(body):
    """What a request asks: the last message, or its input."""
    return body["messages"][-1]["content"] if "messages" in body else str(body.get("input", body.get("prompt")))


def good(body):
    """A short answer that repeats the question."""
    message = {"role": "assistant", "content": f"you said {word(body)}"}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return (
        200,
        {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage},
        {},
    )
