"""Pretraining of the mini world's models on generated text."""
