"""What one server answers, told or not how long it is."""

import asyncio

import pytest
from aiohttp import web

from scheduler.gateway import upstream
from scheduler.gateway.upstream import Answer, Broken, Upstream


async def told(answer):
    """What a request to a server that answers so comes to."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    client = Upstream(f"http://127.0.0.1:{port}", None, 10.0)
    try:
        return await client.send("/v1/chat/completions", {})
    finally:
        await client.close()
        await runner.cleanup()


@pytest.mark.parametrize("chunked", [True, False], ids=["length unsaid", "length said"])
@pytest.mark.parametrize("over", [0, 1])
def test_an_answer_longer_than_may_be_held_is_not(monkeypatch, chunked, over):
    monkeypatch.setattr(upstream, "LONGEST_ANSWER", 1000)
    text = b'{"a": "' + b"x" * (1000 - 9 + over) + b'"}'

    async def answer(request):
        if not chunked:
            return web.Response(body=text)
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(text), 300):
            await response.write(text[start : start + 300])
        await response.write_eof()
        return response

    found = asyncio.run(told(answer))
    assert isinstance(found, Broken if over else Answer), found
    assert over or found.body == {"a": "x" * 991}
