"""The node agent: a small process per node that owns its GPUs' limits and knows nothing of markets."""
