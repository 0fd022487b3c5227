"""Tests with engines that are not in the pinned set; each is skipped where its engine is absent."""
