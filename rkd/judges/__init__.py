"""Judges, which say how good a response is, and responses that try to fool a judge."""
