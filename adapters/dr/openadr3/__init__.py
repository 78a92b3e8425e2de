"""A utility's OpenADR 3 server as a channel of demand response: our own small client (VEN)."""
