"""What the jobs of a table do otherwise than `scale=paper`: their choices enter, sentences below the table leave.

Each row is composed twice: as its jobs ran, and at `scale=paper` with the choices that the table's sweep has there. The
settings of `SETTINGS` are then compared key by key.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from rkd.config import CONF, REFUSALS, plain_values

PAPER = "paper"  # the scale
TAUGHT = ("mini_judge", "mini_marker", "mini_grader")  # judges of the generated world (docs/mini_world.md)
SMALL = 0.01  # a smaller number is written as 1e-5
SAMPLING_SEED = "sampling_seed"


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the config and its name in words.

    `is_stated` says whether paper D states a value (docs/method.md 2). The other values of `scale=paper` are ours.
    """

    key: str
    name: str
    is_stated: bool = False


def _stated(key: str, name: str) -> Setting:
    return Setting(key, name, is_stated=True)


SETTINGS = (
    _stated("teacher_samples.first_pass.samples_per_temperature", "teacher samples per temperature"),
    _stated(
        "teacher_samples.second_pass.samples_per_temperature", "teacher samples per temperature of the second pass"
    ),
    _stated("labels.threshold", "threshold of the vote"),
    _stated("dataset.max_response_tokens", "longest response in tokens"),
    _stated("sft.learning_rate", "SFT learning rate"),
    _stated("sft.epochs", "SFT epochs"),
    _stated("sft.batch_size", "SFT batch size"),
    _stated("student_samples.samples_per_query", "student samples per query"),
    _stated("student_samples.temperature", "temperature of the student samples"),
    _stated("reward_model.learning_rate", "reward model learning rate"),
    _stated("reward_model.epochs", "reward model epochs"),
    _stated("reward_model.batch_size", "reward model batch size"),
    _stated("reward_model.pooling", "reward model pooling"),
    _stated("reward_model.classification_weight", "λ_cls"),
    _stated("rl.rollouts.episodes", "RL episodes"),
    _stated("rl.rollouts.queries_per_rollout", "queries per rollout"),
    _stated("rl.optimisation.learning_rate", "RL learning rate"),
    _stated("rl.kl.controller.coefficient", "KL coefficient"),
    _stated("rl.optimisation.value_coefficient", "value coefficient"),
    Setting("sft.warmup_fraction", "SFT warm-up as a share of the steps"),
    Setting("sft.final_learning_rate_fraction", "SFT final share of the learning rate"),
    Setting("sft.weight_decay", "SFT weight decay"),
    Setting("sft.validations_per_epoch", "SFT validations per epoch"),
    Setting("sft.data.responses_per_query", "SFT responses per query"),
    Setting("pairs.max_pairs_per_query", "pairs per query"),
    Setting("pairs.teacher_share", "share of teacher pairs"),
    Setting("reward_model.warmup_fraction", "reward model warm-up as a share of the steps"),
    Setting("reward_model.final_learning_rate_fraction", "reward model final share of the learning rate"),
    Setting("reward_model.weight_decay", "reward model weight decay"),
    Setting("reward_model.criterion", "reward model criterion"),
    Setting("reward_model.patience", "reward model patience in validations"),
    Setting("dpo.beta", "β of DPO"),
    Setting("dpo.learning_rate", "DPO learning rate"),
    Setting("dpo.epochs", "DPO epochs"),
    Setting("dpo.batch_size", "DPO batch size"),
    Setting("dpo.warmup_fraction", "DPO warm-up as a share of the steps"),
    Setting("rl.rollouts.temperature", "RL temperature"),
    Setting("rl.rollouts.responses_per_query", "responses per query of a rollout"),
    Setting("rl.rollouts.missing_eos_penalty", "penalty of an unfinished response"),
    Setting("rl.optimisation.epochs_per_rollout", "RL epochs per rollout"),
    Setting("rl.optimisation.minibatches_per_epoch", "minibatches per RL epoch"),
    Setting("rl.optimisation.final_learning_rate_fraction", "RL final share of the learning rate"),
    Setting("rl.optimisation.warmup_rollouts", "RL warm-up in rollouts"),
    Setting("rl.optimisation.clip_range", "clip range"),
    Setting("rl.optimisation.clip_range_high", "upper clip range"),
    Setting("rl.optimisation.value_clip_range", "clip range of the value"),
    Setting("rl.optimisation.gradient_clip", "gradient clip of RL"),
    Setting("rl.optimisation.adam_betas", "β₁ and β₂ of RL's AdamW"),
    Setting("rl.optimisation.reduction", "mean of the RL loss over"),
    Setting("rl.advantages.discount", "discount γ"),
    Setting("rl.advantages.gae_lambda", "GAE λ"),
    Setting("rl.advantages.whiten", "whitened advantages"),
    Setting("rl.kl.target", "target of the KL"),
    Setting("rl.kl.place", "place of the KL"),
    Setting("rl.kl.estimator", "KL estimator"),
    Setting("rl.patience", "RL patience in validations"),
)


def notes(table: str, jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on the jobs of a table: settings that are not those of `scale=paper`, shared draws, labels in a judge.

    Args:
        table: the name of the table's sweep.
        jobs: the choices of each job, as a manifest holds them. A choice whose group or option no longer exists is
            left out.
    """
    with _hydra():
        rows = [row for row in _distinct(jobs) if _config(_groups(row)) is not None]
        return [*_differences(table, rows), *_shared_draws(jobs, rows), *_taught_judges(rows)]


def _differences(table: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on the settings whose values differ."""
    found: dict[tuple[str, Setting], dict[tuple[str, str], None]] = {}
    compared = 0
    for row in rows:
        of_paper = _at_paper_scale(table, row)
        own, papers = _config(_groups(row)), _config(_groups(of_paper))
        if own is None or papers is None:
            continue
        compared += 1
        for setting in SETTINGS:
            here, there = _value(own, row, setting.key), _value(papers, of_paper, setting.key)
            if here is not None and there is not None and here != there:
                kind = "J" if own.paper != "D" else "stated" if setting.is_stated else "silent"
                found.setdefault((kind, setting), {})[here, there] = None
    openings = {
        "stated": "Settings that are not the paper's, whose values are in parentheses: ",
        "silent": "Where the paper gives no value, settings that are not those of `scale=paper`: ",
        "J": "Settings that are not those of `scale=paper`, where RL has those of ReFT's code (docs/method.md 3): ",
    }
    sentences = []
    for kind, opening in openings.items():
        listed = [f"{one.name} {_joined(found[kind, one])}" for one in SETTINGS if (kind, one) in found]
        if listed:
            sentences.append(f"{opening}{'; '.join(listed)}.")
    if compared and not sentences:
        return ["All settings are those of `scale=paper`."]
    return sentences


def _shared_draws(jobs: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What ± does not contain: the draws that jobs with several training seeds share."""
    if len({job.get("seed") for job in jobs}) < 2:
        return []
    configs = [(config, row) for row in rows if (config := _config(_groups(row))) is not None]
    own = [row for config, row in configs if OmegaConf.is_interpolation(config, SAMPLING_SEED)]  # follows the seed
    draws = {_value(config, row, SAMPLING_SEED) for config, row in configs if row not in own}
    if len(draws) != 1:
        return []
    names = " and ".join(sorted({f"`{row['experiments']}`" for row in own}))
    return [
        "± is over training seeds alone. The jobs share one draw of the teacher's responses, of the labels and of the "
        f"student's samples (`sampling_seed: {draws.pop()}`). Another draw would add to it."
        + (f" In {names} each seed has draws of its own, and ± contains them." if own else "")
    ]


def _taught_judges(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where labels come in through a judge."""
    names = [
        _value(config, row, key)
        for row in rows
        for key in ("judge.name", "evaluation.annotator.name")
        if (config := _config(_groups(row))) is not None
    ]
    return [
        f"`{name}` was trained on verdicts or grades that follow from known answers. "
        "What rests on it needs no label of the training questions, but is not free of labels."
        for name in dict.fromkeys(names)
        if name in TAUGHT
    ]


def _distinct(jobs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The choices without seeds, each once."""
    rows: dict[str, Mapping[str, Any]] = {}
    for job in jobs:
        row = {key: value for key, value in job.items() if key != "seed"}
        rows.setdefault(json.dumps(row, sort_keys=True, default=str), row)
    return list(rows.values())


def _at_paper_scale(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of the same row at `scale=paper`: those that stand at the same place of the sweep's products."""
    scale = row.get("scale", "mini")
    for product, papers in zip(_products(table, scale), _products(table, PAPER), strict=False):
        # A key that the job lacks was renamed since: only a value that all rows share is known.
        keys = [key for key in product if key in row or len(_listed(product[key])) == 1]
        places = {key: _place(product[key], row.get(key, _listed(product[key])[0])) for key in keys}
        if None not in places.values():
            return {"scale": PAPER} | {key: _listed(papers[key])[place or 0] for key, place in places.items()}
    return {"scale": PAPER} | {key: row[key] for key in ("experiments",) if key in row}


def _place(values: Any, wanted: Any) -> int | None:
    shown = [str(value) for value in _listed(values)]
    return shown.index(str(wanted)) if str(wanted) in shown else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _products(table: str, scale: str) -> list[dict[str, Any]]:
    """The products of a table's sweep at a scale; none if there is no such sweep."""
    config = _config((("scale", scale), ("sweeps", table)))
    products = None if config is None else config.hydra.sweeper.get("products")
    return [plain_values(product) for product in products or []]


def _groups(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The choices of options that exist, as overrides."""
    there = ((key, value) for key, value in row.items() if isinstance(value, str) and key != "sweeps")
    return tuple(sorted((key, value) for key, value in there if (CONF / key / f"{value}.yaml").is_file()))


@functools.cache
def _config(options: tuple[tuple[str, str], ...]) -> DictConfig | None:
    """The config with these options; None if there is none."""
    try:
        return compose("config", overrides=[f"{group}={option}" for group, option in options], return_hydra_config=True)
    except REFUSALS:
        return None


def _value(config: DictConfig, row: Mapping[str, Any], key: str) -> str | None:
    """A setting in words: the row's own choice, or else the config's value; None if the row has no such setting."""
    if key in row:
        return _shown(row[key])
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return _shown(node[name]) if isinstance(node, DictConfig) and name in node else None


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}" if value == 0 or abs(value) >= SMALL else f"{Decimal(f'{value:g}').normalize():e}"
    return str(value) if isinstance(value, str) else ", ".join(map(_shown, value))


def _joined(pairs: Mapping[tuple[str, str], None]) -> str:
    """The values here, and in parentheses the paper's."""
    own, papers = (" or ".join(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
    return f"{own} ({papers})"


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra as the running command has set it up, or else for `conf/`."""
    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
