"""Tests with launchers of clusters; each is skipped where its cluster is absent."""
