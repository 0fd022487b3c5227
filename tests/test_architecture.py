"""The floors: a module of rkd imports from lower floors only, and stages never import each other."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rkd"

FLOORS = [
    set(floor.split())
    for floor in (
        "files drawing journal replies verdict_records attention trees",
        "parallel records losses muon callbacks curves recipes provenance progress results statistics settings rows "
        "lora equivalence",
        "answers",
        "tracking protocols advantages summaries kl_control guard prompts mini batches loading endpoint",
        "columns tables calculations judge_attacks alpaca_eval pair_files store shards resuming sharding transport",
        "sources table_text table_figures models training decoding side_by_side stored",
        "data table_files generation pairs supervised",
        "judge label_statistics pretrain_samples",
        "pretrain_text",
        "bound rewards teacher labels student_samples preferences rollouts engines written_judge "
        "likelihood_judge gold_judge endpoint_teacher endpoint_judge",
        "collector reward_mix pretrain_report endpoint_written_judge",
        "policy_training",
        "pretrain sft dpo reward_model rl evaluation answering label_noise",
        "win_rates wandb_tracking file_tracking report figures workshop",
        "stages artifacts workspace exhibits",
        "plan asking logbook",
        "labelling",
        "testing fitting",
        "pipeline speed bill",
        "job",
        "follower search",
        "sweeper",
        "plugins",
    )
]
STAGES = {
    "pretrain",
    "teacher",
    "labels",
    "sft",
    "student_samples",
    "preferences",
    "dpo",
    "reward_model",
    "rl",
    "evaluation",
}


def test_every_module_stands_on_a_floor():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules <= set().union(*FLOORS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_from_lower_floors_only(path):
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if module == "__init__":
        return
    for imported in _imports(path) - {module}:
        assert _floor(imported) < _floor(module), (
            f"{module} (floor {_floor(module)}) imports {imported} (floor {_floor(imported)})"
        )
        assert not {module, imported} <= STAGES, f"stage {module} imports stage {imported}"


def _floor(module: str) -> int:
    return next(number for number, modules in enumerate(FLOORS) if module in modules)


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rkd."):
            names.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("rkd.")}
    return names
