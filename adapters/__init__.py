"""Talks: one small file for each thing outside Gridpace, behind the ports of `adapters.ports`.

Nothing here decides anything. A module is imported only when the configuration names it, so that a site installs
and trusts only the integrations it uses.
"""
