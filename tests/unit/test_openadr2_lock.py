"""Two sessions judge signatures at once: each by its own server's certificate."""

import sys
import threading

import pytest
from openleadr import messaging
from openleadr.messaging import create_message
from openleadr.utils import certificate_fingerprint

import adapters.dr.openadr2  # noqa: F401 - installs it
from adapters.dr import openadr2_lock
from tests.support.certificates import Authority


@pytest.fixture
def often():
    """Threads that take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_two_sessions_judge_each_their_own_server(tmp_path, often):
    assert messaging.validate_xml_signature is openadr2_lock.validate, "installed with the session's module"
    ca, wrong = Authority(tmp_path), []

    def judge(name):
        certificate, key = (path.read_bytes() for path in ca.issue(name))
        mark = certificate_fingerprint(certificate.decode())
        try:
            for _ in range(15):
                told = create_message("oadrPoll", cert=certificate, key=key, ven_id=name)
                tree = messaging.validate_xml_schema(told)
                messaging.validate_xml_signature(tree, cert_fingerprint=mark)
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=judge, args=(f"vtn{one}",)) for one in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
