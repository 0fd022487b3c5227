"""Tables of sweeps with numbers that nobody measured: what a figure or a notebook needs to have something to draw."""

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from rkd.reporting.job_summary import OWN, EvaluationSummary, Summary, write_summaries
from rkd.reporting.table_files import MANIFEST, RESULTS

QUESTIONS = 200
RANKED = ("pos_neg_accuracy", "pos_pos_accuracy", "student_pos_neg_accuracy", "right_over_wrong_accuracy", "auc")


def write_table(folder: Path, name: str) -> None:
    """The results and the manifest of `sweeps/NAME.yaml`, all jobs finished; Hydra must be initialised."""
    config = compose("config", overrides=[f"sweeps={name}"], return_hydra_config=True)
    products = OmegaConf.to_container(config.hydra.sweeper.products, resolve=True)
    described = OmegaConf.to_container(config.table, resolve=True)
    choices = [
        dict(zip(p, values, strict=True)) for p in products for values in itertools.product(*map(_listed, p.values()))
    ]
    summaries = [_summary(f"job{i}", own, described, random.Random(i)) for i, own in enumerate(choices)]
    folder.mkdir(parents=True, exist_ok=True)
    write_summaries(folder / f"{name}{RESULTS}", summaries)
    manifest = {"table": described, "jobs": {f"no/such/{one.job}": one.choices for one in summaries}}
    (folder / f"{name}{MANIFEST}").write_text(json.dumps(manifest), encoding="utf-8")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _summary(job: str, choices: dict[str, Any], table: dict[str, Any], draw: random.Random) -> Summary:
    names = [column["test_set"] for column in table["columns"] if "test_set" in column]
    level = 0.2 + 0.1 * len(choices["experiments"]) / 4
    tests = {
        role: {
            name: EvaluationSummary("".join(str(int(draw.random() < share)) for _ in range(QUESTIONS)), name, 0.0, 0.0)
            for name in names
        }
        for role, share in ((OWN, level), ("teacher", 0.8))
    }
    right, values = draw.uniform(0.7, 0.8), {"labels.share_without_label": 0.05, "labels.precision": 0.88}
    for judged_by, kind in itertools.product(("verdicts", "judge.verdicts"), ("right", "wrong")):
        values[f"{judged_by}.precision_of_{kind}"] = draw.uniform(0.6, 0.9)
    values["judge.area_under_curve"] = 0.7
    for kind, share in zip(
        itertools.product(("right", "wrong"), repeat=2), (right, 0.03, 0.07, 0.9 - right), strict=True
    ):
        values[f"verdicts.shares.{kind[0]}_called_{kind[1]}"] = share
    histories = {
        "reward_model": [{"step": 10.0 * i, "share": i / 8, **_ranked(i / 8, draw)} for i in range(1, 9)],
        "rl": [_rollout(256.0 * i, i / 40, draw) for i in range(41)] if choices.get("rl") != "none" else [],
    }
    values |= {f"reward_model.{key}": value for key, value in histories["reward_model"][-1].items()}
    histories = {stage: rows for stage, rows in histories.items() if rows}
    return Summary(job, "row", choices.get("seed", 0), choices, "1234567", "2030-01-01", tests, values, histories)


def _ranked(share: float, draw: random.Random) -> dict[str, float]:
    return {name: 0.5 + 0.25 * (1 - math.exp(-3 * share)) + draw.gauss(0, 0.01) for name in RANKED}


def _rollout(episodes: float, share: float, draw: random.Random) -> dict[str, float]:
    rollout = {"reward": -1 + share + draw.gauss(0, 0.05), "kl": 4 * share, "response_tokens": 40 - 5 * share}
    validation = {"validation_accuracy": 0.6 + 0.1 * share + draw.gauss(0, 0.01)} if episodes % 2560 == 0 else {}
    return {"episodes": episodes, **(rollout if episodes else {}), **validation}
