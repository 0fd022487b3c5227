"""Every option of every group, every row and every sweep: composed, and its parts instantiated."""

import dataclasses
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from rkd.pipeline.pipeline import build_stages, job_digest
from rkd.reporting.table_files import build_table
from rkd.store.fingerprint import as_fingerprint
from rkd.training.trainer import Training

REPOSITORY = Path(__file__).parents[1]
UNLABELLED = "dataset=mini_math_aug"
COMMON = "base"  # what options of a group have in common; no option itself
CHOICES = ("reward_model.classification_weight",)
NEEDED = {
    "rl/advantages=group_relative": ["rl.advantages.group_size=2"],
    "rl/advantages=rloo": ["rl.advantages.group_size=2"],
    "reward_mix=own": ["reward_mix.verifiable.function.path=builtins.len"],
    "student=hf": ["student.name_or_path=someone/model"],
    "judge=hf": ["judge.name_or_path=someone/model"],
    "teacher=hf": ["teacher.name_or_path=someone/model"],
    "teacher=endpoint": ["teacher.model=served"],
    "judge=endpoint": ["judge.model=served"],
    "evaluation/annotator=hf": ["evaluation.annotator.name_or_path=someone/model"],
    "evaluation/annotator=endpoint": ["evaluation.annotator.model=served"],
    "evaluation/annotator=endpoint_rubric": ["evaluation.annotator.model=served"],
    "judge=endpoint_written": ["judge.model=served"],
    "judge=endpoint_rubric": ["judge.model=served"],
    **{
        f"{role}/server=provider": [
            f"{role}.server.base_url=https://api.example.com/v1",
            f"{role}.server.prompt_price=1",
            f"{role}.server.response_price=2",
            f"{role}.server.budget_cost=5",
        ]
        for role in ("teacher", "judge")
    },
    "pairs=stored": ["pairs.path=pairs.jsonl"],
    "sft/data=all": ["sft.data.first_pass=null"],
    "labels=noisy_vote": ["labels.seed=0"],
}


OPEN_ENDED = ("dataset=ultrafeedback", "dataset=alpaca_eval", "dataset=mini_open")


def _groups() -> dict[str, list[str]]:
    """The options of every group, by its path in conf/."""
    groups: dict[str, list[str]] = {}
    for path in sorted((REPOSITORY / "conf").rglob("*.yaml")):
        group = path.parent.relative_to(REPOSITORY / "conf").as_posix()
        if group != "." and path.stem != COMMON:
            groups.setdefault(group, []).append(path.stem)
    return groups


GROUPS = _groups()
MOST_GROUPS = 23
HYDRA_GROUPS = {group for group in GROUPS if group.startswith("hydra/")}
RECORDED = {
    "teacher=stored": "teacher.path=responses.jsonl",
    "teacher=stored_calculations": "teacher.path=responses.jsonl",
    "teacher=recorded": "teacher.model=gpt-4",
    "teacher=code_davinci_001": "seed=0",
    "teacher=gpt_3_5_turbo": "seed=0",
}
# Parts of other parts, which are built with these, and what builds no part.
BUILT_ELSEWHERE = {"dataset/queries", "dataset/prompt", "judge/prompt", "pretrain", "pretrain/corpus"} | HYDRA_GROUPS


def _options() -> list[str]:
    options = [(group, option) for group, of_group in GROUPS.items() for option in of_group]
    return [f"{group}={option}" for group, option in options if group not in BUILT_ELSEWHERE]


def _rows() -> list[str]:
    return [path.stem for path in sorted((REPOSITORY / "experiments").glob("*.yaml"))]


@pytest.fixture(scope="module", autouse=True)
def hydra():
    """Hydra is initialised once: it scans for plugins each time."""
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def referred() -> dict[str, DictConfig]:
    """What other parts refer to: dataset, models, trainings, the mini models that there are, and the highest score."""
    config = compose("config", overrides=["dataset=gsm8k"])
    return {
        name: config[name]
        for name in ("dataset", "teacher", "student", "sft", "reward_model", "mini_models", "highest_score")
    }


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    """The digest of each row at the mini scale; to make it, every part is built. Some rows ask unlabelled queries."""
    return {row: job_digest(build_stages(compose("config", [f"experiments={row}", UNLABELLED]))) for row in _rows()}


@pytest.mark.parametrize("option", _options())
def test_every_option_builds(option, referred):
    group, _, name = option.partition("=")
    if group in ("scale", "debug") or option in OPEN_ENDED:  # they choose values of the other groups
        build_stages(compose("config", overrides=[option]))
    elif option in RECORDED:  # they choose teacher_samples too
        build_stages(compose("config", overrides=[option, RECORDED[option]]))
    elif option == "trainer/callbacks=none":
        assert build_stages(compose("config", overrides=[option])).trainer.callbacks == {}
    else:
        # The option's own file with what it takes from others: a quarter of the time of the whole config.
        config = compose(f"{group}/{name}", overrides=NEEDED.get(option, []))
        if group != "dataset":
            config = OmegaConf.merge(
                {name: part for name, part in referred.items() if name != group.partition("/")[0]}, config
            )
        instantiate(OmegaConf.select(config, group.replace("/", ".")), _convert_="all")


def test_few_groups_stand_at_the_top():
    groups = {path.name for path in (REPOSITORY / "conf").iterdir() if path.is_dir()} - {"hydra"}
    assert len(groups) <= MOST_GROUPS


def test_a_group_has_something_to_choose():
    assert {group for group, options in GROUPS.items() if len(options) < 2} <= HYDRA_GROUPS


def test_help_names_every_group_with_a_line_and_its_options_in_the_order_of_the_stages():
    config = compose("config", return_hydra_config=True)
    lines = config.hydra.help.template.splitlines()
    assert max(map(len, lines)) <= 100
    heads = [line.split(maxsplit=1) for line in lines if re.match(r"[a-z_/]+  +\S", line)]
    named = [group for group, _ in heads]
    own = {*GROUPS, "experiments", "sweeps"} - HYDRA_GROUPS
    assert {group for group in named if not group.startswith("hydra/")} == own
    for group in named:
        start = next(place for place, line in enumerate(lines) if line.startswith(f"{group} "))
        shown = itertools.takewhile(lambda line: line.startswith("    "), lines[start + 1 :])
        files = {path.stem for path in (REPOSITORY / "conf" / group).glob("*.yaml")}
        assert set(" ".join(shown).split()) == files - {COMMON}, group
    stages = ["teacher", "labels", "sft", "student_samples", "pairs", "reward_model", "rl", "evaluation/annotator"]
    assert [group for group in named if group in stages] == stages


def test_help_is_shown_without_loading_torch():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['run.py', '--help']\n"
        "try:\n    runpy.run_path('run.py', run_name='__main__')\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "rl/guard  " in done.stdout
    assert done.stderr.split()[-1] == "False"


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["rl/guard=collapse"], "rl.guard._target_", "rkd.rl.collapse_guard.Guard"),
        (["rl/kl/controller=adaptive"], "rl.kl.controller._target_", "rkd.rl.kl_controller.AdaptiveKL"),
        (["rl/advantages=group_relative"], "rl.advantages._target_", "rkd.rl.advantages.GroupRelative"),
        (["judge=written", "judge/prompt=yes_no"], "judge.prompt.yes_word", " Yes"),
        (["judge=endpoint", "judge/server=provider"], "judge.server.api_key_variable", "OPENAI_API_KEY"),
        (["teacher=endpoint", "teacher/server=provider"], "teacher.server.api_key_variable", "OPENAI_API_KEY"),
        (["student/options=lora"], "student.options.lora.rank", 16),
        (["student/calculator=equations"], "student.calculator._target_", "rkd.data.calculator.Equations"),
        (["student/options@teacher.options=lora"], "teacher.options.lora.rank", 16),
        (["dataset/prompt@student.prompt=choice"], "student.prompt._target_", "rkd.data.prompts.PromptTemplate"),
        (["dataset/prompt=from_folder"], "dataset.prompt._target_", "rkd.data.prompts.read_template"),
        (["dataset/queries@dataset.unlabelled=gsm_plus"], "dataset.unlabelled.name", "gsm_plus"),
        (["sft/data=all"], "sft.data._target_", "rkd.stages.labels.AllResponses"),
        (["sft=none", "sft/data=all"], "sft.data._target_", "rkd.stages.labels.AllResponses"),
        (["dataset=mini_open", "evaluation/annotator=mini_compare"], "evaluation.annotator.is_hard", False),
        (["dataset=ultrafeedback", "evaluation/annotator=rubric"], "evaluation.annotator.max_reply_tokens", 256),
        (["evaluation/inference=best_of_n"], "evaluation.inference.samples_per_query", 8),
        (["evaluation/bound=sampled"], "evaluation.bound.samples_per_query", 8),
        (["trainer=ddp", "trainer/callbacks=model_summary"], "trainer.callbacks.model_summary.max_depth", 3),
    ],
)
def test_a_part_of_a_stage_is_chosen_by_a_group_below_it(overrides, key, value):
    config = compose("config", overrides=["dataset=gsm8k_aug", *overrides])
    assert OmegaConf.select(config, key) == value


def test_the_corpus_of_a_mini_model_is_chosen_by_a_group_below_it():
    assert compose("pretrain", ["pretrain=mini_judge"]).corpus.seed == 9
    assert compose("pretrain", ["pretrain=mini_judge", "pretrain/corpus=mini_open"]).corpus.seed == 10


@pytest.mark.parametrize("row", _rows())
def test_every_row_composes_at_the_papers_scale(row):
    config = compose("config", overrides=[f"experiments={row}", "scale=paper"])
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert plain["dataset"]["name"] == "gsm8k"
    assert plain["student"]["name"] == "llama3_2_1b"
    assert plain["rl"].get("rollouts", {}).get("temperature", 1.0) == 1.0


@pytest.mark.parametrize(
    ("overrides", "sft", "reward_model", "rl", "learning_rate"),
    [
        ([], 84, 48, 40, 1e-5),
        (["student=paper_3"], 74, 16, 16, 5e-6),
        (["student=paper_3", "teacher=paper_small", "dataset=gsm_plus"], 70, 16, 16, 5e-6),  # trains on GSM8K
        (["student=paper_3", "dataset=mmlu_pro"], 32, 16, 8, 1e-5),
        (["dataset=mmlu_pro"], 40, 48, 40, 5e-6),
        (["dataset=ultrafeedback"], 48, 48, 64, 2e-6),
        (["student=hf", "student.name_or_path=someone/model-1.5b"], 84, 48, 40, 1e-5),
    ],
)
def test_the_papers_scale_has_the_papers_values(overrides, sft, reward_model, rl, learning_rate):
    """Paper D, Tables 7 and 8, and its experimental set-up."""
    config = compose("config", overrides=["scale=paper", *overrides])
    assert (config.sft.batch_size, config.reward_model.batch_size) == (sft, reward_model)
    assert (config.rl.rollouts.queries_per_rollout, config.rl.optimisation.learning_rate) == (rl, learning_rate)
    assert (config.rl.rollouts.episodes, config.rl.kl.controller.coefficient) == (200_000, 0.2)
    assert (config.sft.learning_rate, config.reward_model.learning_rate, config.sft.epochs) == (5e-6, 5e-5, 4)
    lengths = {"gsm8k": 512, "gsm_plus": 512, "mmlu_pro": 1024, "ultrafeedback": 800}
    stages = (config.teacher_samples, config.student_samples, config.rl.rollouts, config.evaluation)
    assert {stage.max_response_tokens for stage in stages} == {lengths[config.dataset.name]}


@pytest.mark.parametrize(
    ("launcher", "plugin", "cores", "gpus"),
    [
        ("submitit_local_cpu", "hydra_submitit_launcher", "cpus_per_task", None),
        ("submitit_slurm_cpu", "hydra_submitit_launcher", "cpus_per_task", None),
        ("submitit_slurm_gpu", "hydra_submitit_launcher", "cpus_per_task", "gpus_per_node"),
        ("ray_cpu", "hydra_ray_launcher", "ray.remote.num_cpus", None),
        ("ray_gpu", "hydra_ray_launcher", "ray.remote.num_cpus", "ray.remote.num_gpus"),
    ],
)
def test_a_launcher_asks_for_the_cores_and_gpus_that_a_job_uses(launcher, plugin, cores, gpus):
    pytest.importorskip(
        f"hydra_plugins.{plugin}", reason="optional: see requirements-submitit.txt, requirements-ray.txt"
    )
    asked = [f"hydra/launcher={launcher}", "threads=4", "trainer=ddp", "trainer.devices=2"]
    config = compose("config", overrides=asked, return_hydra_config=True).hydra.launcher
    assert OmegaConf.select(config, cores) == 4
    assert gpus is None or OmegaConf.select(config, gpus) == 2


@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_a_search_sets_values_that_there_are_and_may_be_what_it_proposes(scale):
    config = compose("config", overrides=["sweeps=search_rl", f"scale={scale}"], return_hydra_config=True)
    search = instantiate(config.hydra.sweeper.search, _convert_="all")
    for bound in ("low", "high"):
        proposed = {key: v[bound] if isinstance(v, dict) else v[0] for key, v in search.space.items()}
        build_stages(compose("config", overrides=[f"{key}={value}" for key, value in proposed.items()]))


def test_the_search_by_wandb_calls_run_py_with_the_keys_and_values_of_ours():
    sweep = yaml.safe_load((REPOSITORY / "sweeps" / "wandb_search.yml").read_text(encoding="utf-8"))
    ours = compose("config", overrides=["sweeps=search_rl"], return_hydra_config=True).hydra.sweeper.search.space
    parameters = sweep["parameters"]
    ranges = {key: own.get("values") or {"low": own["min"], "high": own["max"]} for key, own in parameters.items()}
    assert ranges == {key: own if key in CHOICES else {"low": own.low, "high": own.high} for key, own in ours.items()}
    # What an agent makes of the command, by W&B's own functions.
    proposed = {key: {"value": own["values"][0] if "values" in own else own["min"]} for key, own in parameters.items()}
    arguments = create_sweep_command_args({"args": proposed})["args_no_hyphens"]
    build_stages(compose("config", overrides=arguments))
    assert sweep["command"] == ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
    assert (REPOSITORY / sweep["program"]).is_file()


def _sweeps() -> list[str]:
    return [path.stem for path in sorted((REPOSITORY / "sweeps").glob("*.yaml"))]


@pytest.mark.parametrize("scale", ["mini", pytest.param("paper", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sweep", _sweeps())
def test_every_sweep_has_jobs_for_each_cell_of_its_table(sweep, scale):
    config = compose("config", overrides=[f"sweeps={sweep}", f"scale={scale}"], return_hydra_config=True)
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    assert set(sweeper["sweeps"]) <= set(_sweeps())
    assert sweeper["sweeps"] or sweeper["products"] or sweeper["search"]
    if config.table is None:
        return
    table = build_table(OmegaConf.to_container(config.table, resolve=True))
    assert table.name == sweep
    products = [
        {key: value if isinstance(value, list) else [value] for key, value in product.items()}
        for product in sweeper["products"]
    ]
    for group in table.groups:
        for label, row in group.rows.items():
            for column in table.columns:
                wanted = {**column.jobs, **group.jobs, **row.jobs}
                chosen = {key: value for key, value in wanted.items() if value is not None}
                makers = [
                    own for own in products if all(value in own.get(key, [value]) for key, value in chosen.items())
                ]
                assert makers, f"no job for {group.label}, {label}, {column.label}"
    for product in products:
        first = [f"{key}={values[0]}" for key, values in product.items()]
        compose("config", overrides=[f"sweeps={sweep}", f"scale={scale}", *first])


@pytest.mark.parametrize("sweep", _sweeps())
def test_the_command_in_the_head_of_a_sweep_can_be_run(sweep):
    head = (REPOSITORY / "sweeps" / f"{sweep}.yaml").read_text(encoding="utf-8").partition("\ntable:")[0]
    command = re.search(r"python run\.py -m ((?:\S+=\S+ ?)+)", head)
    config = compose("config", overrides=command[1].split())
    assert f"sweeps={sweep}" in command[1].split()
    for override in command[1].split()[1:]:
        assert OmegaConf.select(config, override.partition("=")[0]) == override.partition("=")[2]


def test_every_row_builds_and_has_a_digest_of_its_own(digests):
    assert all(len(digest) == 16 for digest in digests.values())
    assert len(set(digests.values())) == len(_rows())


@pytest.mark.parametrize("group", ["experiments", "sweeps"])
def test_a_row_or_table_that_there_is_not_is_refused(group):
    with pytest.raises(MissingConfigException, match="nothing"):
        compose("config", overrides=[f"{group}=nothing"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sft.epochs=two", r"^sft\.epochs=two: must be a whole number"),
        ("seed=-1", "^seed=-1: must be at least 0"),
        ("rl.guard=collapse", r"^rl\.guard=collapse: a part is chosen by its group, `rl/guard=collapse`"),
        ("evaluation.inference=best_of_n", "`evaluation/inference=best_of_n`"),
        ("rl.kl.place=nowhere", r"^rl\.kl\.place=nowhere: must be reward or loss"),
    ],
)
def test_a_value_that_no_part_takes_is_refused_before_anything_is_built(override, message):
    with pytest.raises(ValueError, match=message):
        build_stages(compose("config", overrides=[override]))


def test_every_row_has_a_label_of_its_own():
    labels = [OmegaConf.load(REPOSITORY / "experiments" / f"{row}.yaml").row for row in _rows()]
    assert len(set(labels)) == len(labels)


# Paper D's temperatures are 0, 0.1, 0.2, 0.3: two samples at each make 8, five 20, three 12.
@pytest.mark.parametrize(
    ("overrides", "samples"),
    [([], 4), (["scale=paper"], 20), (["teacher_samples.first_pass.samples_per_temperature=3"], 12)],
)
def test_the_row_sft_takes_the_responses_of_the_first_pass_alone(overrides, samples):
    config = compose("config", overrides=["experiments=sft", *overrides])
    assert instantiate(config.sft.data, _convert_="all").first_pass.samples_per_query == samples


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("evaluation/inference=best_of_n", "evaluation"),
        ("evaluation/bound=sampled", "evaluation"),
        ("evaluation/annotator=teacher", "evaluation"),
        ("sft/data=all", "sft"),
    ],
)
def test_what_only_the_whole_job_depends_on_is_in_its_digest_and_not_in_the_fingerprint_of_a_stage(
    digests, override, part
):
    """Rows share the tests of teacher and student, and an SFT student is named by its examples."""
    usual, other = (build_stages(compose("config", [UNLABELLED, *own])) for own in ([], [override]))
    assert as_fingerprint(getattr(usual, part)) == as_fingerprint(getattr(other, part))
    assert job_digest(other) != digests["ours"] == job_digest(usual)


def test_tracking_callbacks_and_hardware_do_not_change_the_digest(digests):
    other = compose("config", [UNLABELLED, "tracking=none", "trainer.accelerator=cpu", "trainer/callbacks=none"])
    assert job_digest(build_stages(other)) == digests["ours"]


def test_who_samples_the_rollouts_is_in_the_digest_of_a_job_that_has_some():
    def digest(*more):
        return job_digest(build_stages(compose("config", [UNLABELLED, "generation=vllm", *more])))

    assert digest("generation.samples_policy=true") != digest()
    assert digest("generation.samples_policy=true", "rl=none") == digest("rl=none")
    assert digest("generation.python=elsewhere", "generation.kv_cache_gb=4") == digest()


@pytest.mark.parametrize("short", ["fast_dev_run=true", "overfit_batches=1", "max_epochs=20"])
def test_a_job_cut_short_has_a_digest_of_its_own(digests, short):
    assert job_digest(build_stages(compose("config", [UNLABELLED, f"trainer.{short}"]))) != digests["ours"]


def test_a_debug_run_is_the_default_one_cut_short_in_folders_of_its_own():
    config = compose("config", overrides=["debug=fast_dev_run"])
    assert (config.artifacts.root, config.output_root) == ("debug/artifacts", "debug/outputs")
    assert dataclasses.replace(build_stages(config).trainer, callbacks={}) == Training(
        accelerator="cpu", fast_dev_run=True, log_every_n_steps=1
    )


def test_a_job_that_only_evaluates_has_a_digest_of_its_own_whatever_the_training():
    a, b = (build_stages(compose("config", overrides=[override])) for override in ("sft.epochs=1", "sft.epochs=2"))
    assert job_digest(a, evaluate_only=True) == job_digest(b, evaluate_only=True) != job_digest(a)
