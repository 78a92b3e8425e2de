"""llm-d's async processor as far as its dispatch goes: what its `redis` gate reads, and what it takes at each poll.

The contract, in our words, of llm-d-incubation/llm-d-async: docs/gates.md and docs/transports.md at 569b8fb,
`RedisDispatchGate.Budget` and `RedisSortedSetFlow.processMessages` (pkg/redis, at af05ecb), and the producer's
`SubmitRequest` at c8f4507. The processor is a Go program and is not run here.
"""

import json
import math
import time

import redis

BUDGET_KEY, QUEUE, RESULTS = "dispatch-gate-budget", "request-sortedset", "result-list"


class Processor:
    """One queue with the gate `redis`. `sent`: ids in the order of their dispatch; `dropped`: those that came late."""

    def __init__(self, url, gate_address, batch_size=10, key=BUDGET_KEY):
        host, _, port = gate_address.partition(":")
        self.queue = redis.Redis.from_url(url)
        # Only an address is handed to the gate's client: database 0, no user, no password, no TLS.
        self.gate = redis.Redis(host=host, port=int(port))
        self.key, self.batch_size, self.sent, self.dropped = key, batch_size, [], []

    def close(self):
        self.queue.close()
        self.gate.close()

    def submit(self, name, due):
        """As a producer does: the whole request is the member, its deadline the score."""
        deadline = int(due.timestamp())
        body = {"id": name, "created": int(time.time()), "deadline": deadline, "payload": {"model": "tiny"}}
        member = {"request_kind": "message", "data": body, "internal_routing": {"result_queue_name": RESULTS}}
        self.queue.zadd(QUEUE, {json.dumps(member): float(deadline)})

    def budget(self):
        """Absent or unreadable: 1; no answer: 0; else cut to 0 to 1."""
        try:
            text = self.gate.get(self.key)
        except redis.RedisError:
            return 0.0
        if text is None:
            return 1.0
        try:
            return min(1.0, max(0.0, float(text)))
        except ValueError:
            return 1.0

    def poll(self):
        """One poll: how many requests were dispatched."""
        now, before = int(time.time()), len(self.sent)
        for _ in range(math.floor(self.batch_size * self.budget())):
            found = self.queue.zpopmin(QUEUE, 1)
            if not found:
                break
            request = json.loads(found[0][0])["data"]
            (self.dropped if request["deadline"] < now else self.sent).append(request["id"])
        return len(self.sent) - before
