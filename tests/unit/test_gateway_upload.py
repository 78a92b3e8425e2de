"""Uploads as they come in: refused before they are read, counted while they are, and spooled nowhere else."""

import asyncio
import tempfile
import threading
from contextlib import suppress

import pytest

from scheduler.gateway.app import create_app
from scheduler.gateway.checks import LARGE, Checks, Lane
from scheduler.gateway.intake import FORM_BYTES
from scheduler.gateway.model import Status
from scheduler.gateway.validate import check
from scheduler.store.store import StoreDegraded
from tests.support.gateway import KEY, asked, stored
from tests.unit.test_gateway_talk import created, opened, research, run

BOUND = "b0und"


def part(head, content):
    return f"--{BOUND}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"


def form(*parts):
    return b"".join((*parts, f"--{BOUND}--\r\n".encode()))


def file_of(content):
    return part('name="file"; filename="in.jsonl"\r\nContent-Type: application/jsonl', content)


PURPOSE = part('name="purpose"', b"batch")


class Body:
    """A body that is sent piece by piece; `read` counts the pieces that were asked for."""

    def __init__(self, *pieces):
        self.pieces, self.read = pieces, 0

    async def receive(self):
        self.read += 1
        left = self.pieces[self.read - 1 :]
        return {"type": "http.request", "body": left[0] if left else b"", "more_body": len(left) > 1}


async def call(gateway, body, length=None, path="/v1/files", method="POST"):
    """The status and the text of an answer."""
    headers = [(b"authorization", f"Bearer {KEY}".encode()),
               (b"content-type", f"multipart/form-data; boundary={BOUND}".encode())]  # fmt: skip
    headers += [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
             "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http",
             "server": ("test", 80), "client": ("test", 1)}  # fmt: skip
    said = []

    async def send(message):
        said.append(message)

    await create_app(gateway)(scope, body.receive, send)
    return said[0]["status"], b"".join(one.get("body", b"") for one in said).decode()


def lying(folder):
    return [path.name for path in (folder / "state/files").iterdir()]


@pytest.mark.parametrize("fields_first", [True, False])
@run
async def test_an_upload_goes_straight_to_where_it_will_lie(tmp_path, monkeypatch, fields_first):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    content = asked(f"w{k}" * 40 for k in range(20_000)).encode()
    whole = form(PURPOSE, file_of(content)) if fields_first else form(file_of(content), PURPOSE)
    assert len(whole) > 3_000_000
    async with opened(tmp_path) as (gateway, _):
        pieces = [whole[k : k + 65_533] for k in range(0, len(whole), 65_533)]
        status, text = await call(gateway, Body(*pieces), len(whole))
        assert status == 200, text
        (name,) = lying(tmp_path)
        assert name in text
        assert (tmp_path / "state/files" / name).read_bytes() == content
        assert gateway.shelf.bytes_of("research") == len(content)


@run
async def test_what_is_announced_to_be_too_much_is_refused_before_any_of_it_is_read(tmp_path):
    async with opened(tmp_path) as (gateway, _):
        most = gateway.config.max_file_bytes
        for path, method, length in (
            ("/v1/files", "POST", most + FORM_BYTES + 1),
            ("/v1/moves/t/input", "PUT", most + 1),
        ):
            body = Body(b"x" * 100, b"y")
            status, _ = await call(gateway, body, length, path, method)
            assert (status, body.read) == (413, 0)
        assert lying(tmp_path) == []


@pytest.mark.parametrize(("path", "method"), [("/v1/files", "POST"), ("/v1/moves/t/input", "PUT")])
@run
async def test_what_is_not_announced_is_counted_and_refused_where_it_is_too_much(tmp_path, path, method):
    async with opened(tmp_path) as (gateway, _):
        most = 3 * 2**20
        gateway.config = gateway.config.model_copy(update={"max_file_bytes": most})
        head = form(PURPOSE, file_of(b""))[: -len(f"\r\n--{BOUND}--\r\n")] if method == "POST" else b""
        body = Body(head, *[b"x" * 2**19] * 100)
        status, text = await call(gateway, body, None, path, method)
        assert (status, f"only {most} more bytes" in text) == (413, True), text
        assert body.read < 12, "of a hundred pieces"
        assert lying(tmp_path) == []
        assert gateway.shelf.bytes_of("research") == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (form(part('name="purpose"', b"fine-tune"), file_of(b"{}")), "purpose"),
        (form(file_of(b"{}")), "purpose"),
        (form(PURPOSE), "file: is missing"),
        (form(PURPOSE, part('name="file"', b"{}")), "file: is missing"),
        (form(PURPOSE, file_of(b"{}"), file_of(b"{}")), "send one file"),
        (form(PURPOSE, part('name="other"; filename="x"', b"{}")), "send one file"),
        (form(PURPOSE, file_of(b"{}"))[:-8], "ends before its end"),
        (form(PURPOSE, part('name="x"', b"x" * FORM_BYTES), file_of(b"{}")), "beside its file"),
        (form(*[part('name="x"', b"")] * 20, PURPOSE, file_of(b"{}")), "beside its file"),
        (form(part('name="x"\r\nX-Long: ' + "y" * FORM_BYTES, b""), PURPOSE, file_of(b"{}")), "can't be read"),
        (b"no form at all", "can't be read"),
    ],
)
@run
async def test_a_form_that_is_not_an_upload_is_refused_and_leaves_nothing(tmp_path, body, said):
    async with opened(tmp_path) as (gateway, _):
        status, text = await call(gateway, Body(body), len(body))
        assert (status, said in text) == (400, True), text
        assert lying(tmp_path) == []


@run
async def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(tmp_path):
    async with opened(tmp_path) as (gateway, _):
        whole = form(PURPOSE, file_of(b"x" * 3_000_000))

        class Gone(Body):
            async def receive(self):
                return await super().receive() if self.read < 1 else {"type": "http.disconnect"}

        with suppress(Exception):
            await call(gateway, Gone(whole[:2_000_000], b""), len(whole))
        assert lying(tmp_path) == []
        assert gateway.shelf.bytes_of("research") == 0


@run
async def test_the_same_hand_over_twice_at_once_on_a_full_disk_leaves_no_record_without_its_content(tmp_path):
    """The first one's record is refused in the very moment in which the second one comes to be kept."""
    async with opened(tmp_path) as (gateway, _):
        shelf, tenant, second = gateway.shelf, research(gateway), []
        put = shelf.store.put

        def full(kind, key, value):
            shelf.store.put = put
            second.append(threading.Thread(target=gateway.host.keep, args=(tenant, "t", later)))
            second[0].start()
            second[0].join(0.3)  # it waits for us, or is through
            raise StoreDegraded("gateway.db: database or disk is full")

        with gateway.incoming(tenant) as first, gateway.incoming(tenant) as later:
            first.write(b"{}\n")
            later.write(b"{}\n")
            shelf.store.put = full
            with pytest.raises(StoreDegraded):
                gateway.host.keep(tenant, "t", first)
            second[0].join(30)
        (file,) = shelf.files(tenant.name)
        assert shelf.path(file).read_bytes() == b"{}\n"
        with gateway.incoming(tenant) as again:
            again.write(b"{}\n")
            gateway.host.keep(tenant, "t", again)
        assert lying(tmp_path) == [file.id]
        assert shelf.bytes_of(tenant.name) == 3


# ---------------------------------------------------------------- whose turn to be checked it is
@run
async def test_tenants_take_turns_and_small_inputs_pass_large_ones():
    checks = Checks()
    for tenant, count in (("a", 3), ("b", 1), ("c", 2)):
        for number in range(count):
            checks.put(f"{tenant}{number}", tenant, 10)
    checks.put("huge", "a", LARGE)
    assert [await checks.next(Lane.SMALL) for _ in range(4)] == ["a0", "b0", "c0", "a1"]
    checks.put("b1", "b", 10)
    assert [await checks.next(Lane.SMALL) for _ in range(3)] == ["c1", "a2", "b1"]
    assert await checks.next(Lane.LARGE) == "huge"
    waits = asyncio.create_task(checks.next(Lane.LARGE))
    await asyncio.sleep(0.01)
    checks.put("later", "b", LARGE)
    assert await waits == "later"


@run
async def test_a_small_batch_is_checked_while_a_large_one_of_somebody_else_is(tmp_path, monkeypatch):
    monkeypatch.setattr("scheduler.gateway.checks.LARGE", 1000)
    goes_on = threading.Event()

    def slow(path, *more):
        if path.stat().st_size >= 1000:
            assert goes_on.wait(60)
        return check(path, *more)

    monkeypatch.setattr("scheduler.gateway.gateway.check", slow)
    async with opened(tmp_path) as (gateway, _):
        large = stored(gateway, research(gateway), asked(f"w{k}" for k in range(20)))
        (first,) = created(gateway, input_file_id=large.id)
        (second,) = created(gateway)
        working = asyncio.create_task(gateway.run())
        while gateway.shelf.known(second.id).status is not Status.IN_PROGRESS:
            assert not working.done()
            await asyncio.sleep(0.01)
        assert gateway.shelf.known(first.id).status is Status.VALIDATING
        goes_on.set()
        while gateway.shelf.known(first.id).status is not Status.IN_PROGRESS:
            assert not working.done()
            await asyncio.sleep(0.01)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
