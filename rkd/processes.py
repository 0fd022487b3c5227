"""What a Python process that this one starts is given, so that it imports the same code."""

import os
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]
"""Where `rkd` and `hydra_plugins` lie."""


def with_import_path(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with this code first on the import path of a Python process that is started in it.

    `python run.py` in a clone needs no installation, since Python puts the script's folder on its own path. A process
    that it starts has another script. Where rkd is installed, the process still gets this copy and no other.
    """
    others = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place and place != str(FOLDER)]
    return {**environment, "PYTHONPATH": os.pathsep.join([str(FOLDER), *others])}
