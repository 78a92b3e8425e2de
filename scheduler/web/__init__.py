"""What a person sees: one read-only page over the service, served from the package's own assets.

Why apart from the API: it needs the extra `web`, and nothing else in Gridpace imports it.
"""
