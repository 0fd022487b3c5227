"""Datasets, prompts and answers: files become queries, queries become prompts, texts become answers."""
