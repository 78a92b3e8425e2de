"""Batch inference that waits for the right power: OpenAI's Files and Batches in front of any OpenAI-compatible server.

A process of its own (`gridpace gateway`), so that a million requests never share a thread with the control loop. Each
batch is a job of the daemon; the GPUs that the daemon grants it are what sets how many requests run at once.
"""
