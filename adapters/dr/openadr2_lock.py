"""Signatures of OpenADR 2.0b are judged one at a time, whichever thread asks.

Why: `openleadr` keeps one verifier and one set of nonces for the whole process, and a verifier holds the certificate
that it was asked about last. Two sessions, each in its own thread, would judge a message by the other's certificate and
refuse what is right ("invalid signature"), or lose a nonce to each other.
"""

from __future__ import annotations

import threading
from typing import Any

from openleadr import client, messaging

_alone = threading.Lock()
_validate = messaging.validate_xml_signature


def validate(*args: Any, **more: Any) -> None:
    """As `openleadr.messaging.validate_xml_signature`, in turn."""
    with _alone:
        _validate(*args, **more)


def install() -> None:
    """Make every client and server of this process judge in turn; again is the same."""
    messaging.validate_xml_signature = client.validate_xml_signature = validate
