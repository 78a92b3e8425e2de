"""Many nodes: keys, servers and leaves for a NATS fleet, and simulated nodes to rehearse it."""
