"""Sampling of text, from models in this process and behind servers."""
