"""Judges: what says how good a response is, and the responses that try to fool it."""
