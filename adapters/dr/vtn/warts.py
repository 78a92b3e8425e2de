"""What real OpenADR 3 servers do that the text does not promise, each as a switch of the test server.

Why: a rehearsal against a server that behaves better than the utility's proves nothing. Each of these was seen in a
server that is in use, or follows from a contradiction of the text.
"""

from __future__ import annotations

from enum import StrEnum


class Wart(StrEnum):
    """One way to misbehave."""

    LOCAL_DATES = "local_dates"
    FORBIDDEN = "forbidden"
    NO_EXPIRY = "no_expiry"
    SCOPE_LIST = "scope_list"
    BODY_ONLY = "body_only"
    BASIC_ONLY = "basic_only"
    NO_AUTH_SERVER = "no_auth_server"
    NO_FILTER = "no_filter"
    NO_PAGES = "no_pages"
    SHORT_PAGES = "short_pages"
    STORES_ANYTHING = "stores_anything"
    DOUBLE_ENCODED = "double_encoded"
    SNAKE_CASE = "snake_case"
    ECHO_BELOW = "echo_below"
    FAILS_ON_DEAD_SUBSCRIBER = "fails_on_dead_subscriber"
    ZERO_DURATION = "zero_duration"
    NO_MAKING = "no_making"
    V301 = "v301"


MEANING: dict[Wart, str] = {
    Wart.LOCAL_DATES: "createdDateTime and modificationDateTime are local times with a space and no zone",
    Wart.FORBIDDEN: "a token that is not right is answered with 403 instead of 401",
    Wart.NO_EXPIRY: "the answer to a login has no expires_in",
    Wart.SCOPE_LIST: "the scope of a token is a list",
    Wart.BODY_ONLY: "logins by HTTP Basic are answered with 400",
    Wart.BASIC_ONLY: "logins in the form are answered with 401",
    Wart.NO_AUTH_SERVER: "/auth/server is 404",
    Wart.NO_FILTER: "programID and targets in queries are ignored",
    Wart.NO_PAGES: "skip and limit are ignored",
    Wart.SHORT_PAGES: "a page holds three objects, whatever limit says",
    Wart.STORES_ANYTHING: "objects are stored without a look at their times and values",
    Wart.DOUBLE_ENCODED: "the body of a call is a JSON string that holds JSON",
    Wart.SNAKE_CASE: "names in calls are in snake_case",
    Wart.ECHO_BELOW: "the echo test of a subscription calls callbackUrl/echo?echo=",
    Wart.FAILS_ON_DEAD_SUBSCRIBER: "a subscriber that is dead makes a change answer 500, though it was made",
    Wart.ZERO_DURATION: "an event without a duration is told with PT0S",
    Wart.NO_MAKING: "clients may not make VENs and resources (403)",
    Wart.V301: "it speaks 3.0.1: targets as maps, resources below their VEN",
}
