"""The models that the tests of reinforcement learning share."""

import pytest

from rkd.records import Checkpoint
from tests.support import tiny_world


@pytest.fixture(scope="session")
def student(guessing_student) -> Checkpoint:
    """The model that is trained."""
    return guessing_student


@pytest.fixture(scope="session")
def other(tmp_path_factory) -> Checkpoint:
    """A reference that the policy is far from."""
    return tiny_world.random_model(tmp_path_factory.mktemp("other"), seed=9)
