"""A process that joins the training of a job: `rkd.distributed` starts it with the job's resolved config."""

import json
import sys
from pathlib import Path

from omegaconf import OmegaConf

from rkd.jobs.job import follow_job
from rkd.processes import lasting_streams


def main() -> None:
    """Run the process."""
    lasting_streams()
    follow_job(OmegaConf.create(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
