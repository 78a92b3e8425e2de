"""A management controller of the tests: a small Redfish service with sessions, ETags and refusals.

Resources are held against DMTF's schemas (see `redfish_rules`): ServiceRoot, Session, ComputerSystem, Processor,
Chassis, EnvironmentMetrics, Power. It behaves as DSP0266 says: 401 without a session, 412 for a stale If-Match, 428
without one where the resource asks for it, and refusals with @Message.ExtendedInfo. What no controller would do on its
own (a card that hangs) is steered by the test.
"""

import json
import ssl
import threading
import time
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.support.redfish_rules import unwritable

ROOT = "/redfish/v1"
SESSIONS = f"{ROOT}/SessionService/Sessions"
USER, PASSWORD = "gridpace", "let me cap"


def link(uri):
    return {"@odata.id": uri}


def collection(uri, members, kind):
    return {"@odata.type": f"#{kind}Collection.{kind}Collection", "Name": f"{kind}s",
            "Members@odata.count": len(members),
            "Members": [link(f"{uri}/{member}") for member in members]}  # fmt: skip


def metrics(draw_w=650.0, **limit):
    control = {"AllowableMin": 200, "AllowableMax": 700, "ControlMode": "Automatic", "SetPoint": 700} | limit
    return {"@odata.type": "#EnvironmentMetrics.v1_3_0.EnvironmentMetrics", "Id": "EnvironmentMetrics",
            "Name": "Environment Metrics", "PowerWatts": {"Reading": draw_w}, "PowerLimitWatts": control}  # fmt: skip


def power(draw_w=5200.0, **limit):
    control = {"@odata.id": f"{ROOT}/Chassis/Self/Power#/PowerControl/0", "MemberId": "0",
               "Name": "System Power Control", "PowerConsumedWatts": draw_w, "PowerCapacityWatts": 10200,
               "PowerLimit": {"LimitInWatts": None, "LimitException": "NoAction"} | limit}  # fmt: skip
    return {"@odata.type": "#Power.v1_7_1.Power", "Id": "Power", "Name": "Power", "PowerControl": [control]}


def tree(gpus=8, chassis=None):
    """The resources of a server with GPUs, whose chassis has these further ones (`Power`, `EnvironmentMetrics`)."""
    systems, board, box = f"{ROOT}/Systems", f"{ROOT}/Systems/HGX_Baseboard_0", f"{ROOT}/Chassis/Self"
    names = [f"GPU_SXM_{number}" for number in range(1, gpus + 1)]
    chassis = chassis or {}
    made = {
        ROOT: {"@odata.type": "#ServiceRoot.v1_15_0.ServiceRoot", "Id": "RootService", "Name": "Root Service",
               "RedfishVersion": "1.17.0", "Systems": link(systems), "Chassis": link(f"{ROOT}/Chassis"),
               "SessionService": link(f"{ROOT}/SessionService"), "Links": {"Sessions": link(SESSIONS)}},
        systems: collection(systems, ["HGX_Baseboard_0"], "ComputerSystem"),
        board: {"@odata.type": "#ComputerSystem.v1_20_0.ComputerSystem", "Id": "HGX_Baseboard_0", "Name": "HGX",
                "Processors": link(f"{board}/Processors")},
        f"{board}/Processors": collection(f"{board}/Processors", ["CPU_0", *names], "Processor"),
        f"{board}/Processors/CPU_0": {"@odata.type": "#Processor.v1_18_0.Processor", "Id": "CPU_0", "Name": "CPU",
                                      "ProcessorType": "CPU"},
        f"{ROOT}/Chassis": collection(f"{ROOT}/Chassis", ["Self", "HGX_Chassis_0"], "Chassis"),
        f"{ROOT}/Chassis/HGX_Chassis_0": {"@odata.type": "#Chassis.v1_24_0.Chassis", "Id": "HGX_Chassis_0",
                                          "Name": "Tray", "ChassisType": "Module", "Links": {}},
        box: {"@odata.type": "#Chassis.v1_24_0.Chassis", "Id": "Self", "Name": "Server", "ChassisType": "RackMount",
              "Manufacturer": "Acme", "Model": "G8", "Links": {"ComputerSystems": [link(board)]},
              **{kind: link(f"{box}/{kind}") for kind in chassis}},
        **{f"{box}/{kind}": body for kind, body in chassis.items()},
    }  # fmt: skip
    for name in names:
        uri = f"{board}/Processors/{name}"
        made[uri] = {"@odata.type": "#Processor.v1_18_0.Processor", "Id": name, "Name": name, "ProcessorType": "GPU",
                     "Manufacturer": "NVIDIA", "Model": "H100",
                     "EnvironmentMetrics": link(f"{uri}/EnvironmentMetrics")}  # fmt: skip
        made[f"{uri}/EnvironmentMetrics"] = metrics()
    return {uri: {"@odata.id": uri} | body for uri, body in made.items()}


class FakeBmc:
    """State and faults: `status` answers a URI's PATCH with a code, `hang` holds it, `board` caps what it takes,
    `gone` URIs are 404; `before_patch` runs when a PATCH arrives, as another writer would."""

    def __init__(self, resources):
        self.resources, self.versions = resources, dict.fromkeys(resources, 1)
        self.sessions, self.logins, self.patches, self.requests = {}, 0, [], 0
        self.status, self.hang, self.board, self.gone = {}, {}, {}, set()
        self.late, self.before = {}, {}  # how many reads of a URI still show what was before a write
        self.before_patch = lambda uri: None
        self.needs_etag, self.slow_s, self.lock = True, 0.0, threading.RLock()

    def etag(self, uri):
        return f'W/"{self.versions[uri]}"'

    def limit(self, uri):
        body = self.resources[uri]
        if "PowerControl" in body:
            return body["PowerControl"][0]["PowerLimit"]["LimitInWatts"]
        control = body["PowerLimitWatts"]
        return None if control.get("ControlMode") == "Disabled" else control["SetPoint"]

    def touch(self, uri, **limit):
        """Somebody else writes."""
        with self.lock:
            self.resources[uri]["PowerLimitWatts"].update(limit)
            self.versions[uri] += 1

    def patch(self, uri, body):
        """What the resource says of a write: a status, and a message."""
        if uri in self.status:
            return self.status[uri], "refused by the test"
        if names := unwritable(body):
            return 400, f"The property {names[0]} is a read only property and cannot be assigned a value."
        with self.lock:
            wanted, resource = deepcopy(self.resources[uri]), self.resources[uri]
            if "PowerLimitWatts" in body:
                control = wanted["PowerLimitWatts"]
                control.update(body["PowerLimitWatts"])
                point = control["SetPoint"]
                if point is not None and not control["AllowableMin"] <= point <= control["AllowableMax"]:
                    return 400, f"The value {point} for the property SetPoint is out of range."
                if point is not None and uri in self.board:
                    control["SetPoint"] = min(point, self.board[uri])
            for place, part in enumerate(body.get("PowerControl", ())):
                if not part:
                    continue
                limit = part.get("PowerLimit", {})
                if isinstance(limit.get("LimitInWatts"), float):
                    return 400, "LimitInWatts is an integer here."
                wanted["PowerControl"][place]["PowerLimit"].update(limit)
            if uri in self.late:
                self.before[uri] = [deepcopy(resource)] * self.late[uri]
            resource.update(wanted)
            self.versions[uri] += 1
            self.patches.append((uri, body))
        return 204, ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=None, **headers):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message):
        info = [{"MessageId": "Base.1.18.GeneralError", "Message": message}]
        self.answer(status, {"error": {"code": "Base.1.18.GeneralError", "message": "See ExtendedInfo.",
                                       "@Message.ExtendedInfo": info}})  # fmt: skip

    def body(self):
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")

    def allowed(self, uri):
        bmc = self.server.bmc
        bmc.requests += 1
        time.sleep(bmc.slow_s)
        if uri == ROOT or self.headers.get("X-Auth-Token") in bmc.sessions.values():
            return True
        self.refuse(401, "No session.")
        return False

    @property
    def uri(self):
        return urlsplit(self.path).path.rstrip("/")

    def do_GET(self):
        bmc, uri = self.server.bmc, self.uri
        if not self.allowed(uri):
            return
        if uri not in bmc.resources or uri in bmc.gone:
            self.refuse(404, f"The resource at the URI {uri} was not found.")
            return
        with bmc.lock:
            body = bmc.before[uri].pop() if bmc.before.get(uri) else bmc.resources[uri]
            self.answer(200, body, ETag=bmc.etag(uri))

    def do_POST(self):
        bmc, body = self.server.bmc, self.body()
        if self.uri != SESSIONS:
            self.refuse(405, "Only sessions are made here.")
        elif (body.get("UserName"), body.get("Password")) != (USER, PASSWORD):
            self.refuse(401, "Invalid username or password.")
        else:
            bmc.logins += 1
            uri, token = f"{SESSIONS}/{bmc.logins}", f"token-{bmc.logins}"
            bmc.sessions[uri] = token
            session = {"@odata.id": uri, "@odata.type": "#Session.v1_7_0.Session", "Id": str(bmc.logins), "Name": "S"}
            self.answer(201, session, X_Auth_Token=token, Location=uri)

    def do_DELETE(self):
        found = self.server.bmc.sessions.pop(self.uri, None)
        self.answer(204) if found else self.refuse(404, "No such session.")

    def do_PATCH(self):
        bmc, uri, body = self.server.bmc, self.uri, self.body()
        if not self.allowed(uri):
            return
        if uri in bmc.gone:
            self.refuse(404, "Gone.")
            return
        if uri in bmc.hang:
            bmc.hang[uri].wait(30)
        bmc.before_patch(uri)
        tag = self.headers.get("If-Match")
        if tag is None and bmc.needs_etag:
            self.refuse(428, "Precondition required.")
        elif tag is not None and tag != bmc.etag(uri):
            self.refuse(412, "The ETag supplied did not match the ETag required to change this resource.")
        else:
            status, message = bmc.patch(uri, body)
            self.refuse(status, message) if message else self.answer(status)

    def log_message(self, *_):
        pass


@contextmanager
def running_bmc(resources=None, certificate=None):
    """The controller and its address; `certificate`: folder with server.pem and server.key for TLS."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None
    server.bmc = FakeBmc(resources or tree())
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate / "server.pem", certificate / "server.key")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.bmc, f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    finally:
        for held in server.bmc.hang.values():
            held.set()
        server.shutdown()
        thread.join()
        server.server_close()
