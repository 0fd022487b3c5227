"""What the tests of models share."""

import pytest

from rkd.models import prefix_trees as trees


@pytest.fixture(params=[1, 10**6], ids=["by length", "in one pass"])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read in as many passes as they differ in length, or all together."""
    monkeypatch.setattr(trees, "SMALLEST_PASS_TOKENS", request.param)
