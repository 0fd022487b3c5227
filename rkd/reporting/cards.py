"""The cards of what a job hands over (`rkd.jobs.export`): a result and facts enter, a README with front matter leaves.

A card says what something is, how plain transformers or datasets read it, what it was made from, by which recipe, with
which results and limits. Fractions become percent here. The code of a card is run by a test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from rkd.data.licences import PASSED_ON
from rkd.evaluation.results import EvaluationResult, RunResult
from rkd.markdown import markdown_table
from rkd.reporting.job_summary import numbers, origin_notes

CARD = "README.md"
HERE = 'FOLDER = "."  # or the name of this repository on the hub'
TAGS = ["knowledge-distillation", "rkd"]
DETAILS = {"reliability", "shares", "consensus_histogram"}  # parts of names of numbers that a card leaves out
UNKNOWN = "not known: ask its source before you pass it on"
VERSIONS = ("torch", "transformers", "datasets")  # named beside the revision


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """A part that something was made from: what it is, its name, and its licence; None: that is not known.

    `is_record` says that it is text that others wrote or sampled: it needs a licence to be passed on.
    """

    what: str
    name: str
    licence: str | None
    is_record: bool = False

    @property
    def may_be_passed_on(self) -> bool:
        """Whether its texts may be part of a dataset."""
        return not self.is_record or self.licence in PASSED_ON


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card says besides the result.

    Args:
        title: what is handed over, in a few words.
        summary: what it is and does, in sentences.
        usage: how it is read, as Python.
        ingredients: what it was made from, the model or the questions first.
        recipe: the values of the stages that made it, by stage.
        limits: sentences.
        numbers: beginnings of the names of numbers (`rkd.reporting.job_summary`) that belong to its results.
        front: further fields of the front matter.
    """

    title: str
    summary: Sequence[str]
    usage: str
    ingredients: Sequence[Ingredient]
    recipe: Mapping[str, Any]
    limits: Sequence[str]
    numbers: Sequence[str] = ()
    front: Mapping[str, Any] = field(default_factory=dict)


def model_card(result: RunResult, facts: Facts, *, is_evaluated: bool) -> ModelCard:
    """The card of a model; one that `is_evaluated` is the last model of the result, whose accuracies it names."""
    front = ModelCardData(
        language="en",
        license=facts.ingredients[0].licence or "other",
        library_name="transformers",
        tags=TAGS,
        model_name=facts.title,
        eval_results=_accuracies(result) if is_evaluated else None,
        **facts.front,
    )
    card = ModelCard(f"---\n{front.to_yaml()}\n---\n")
    card.text = _body(result, facts)
    return card


def dataset_card(result: RunResult, facts: Facts, files: Mapping[str, Mapping[str, str]]) -> DatasetCard:
    """The card of a dataset; `files` are its files by configuration and split, as `load_dataset` finds them."""
    configs = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in splits.items()]}
        for name, splits in files.items()
    ]
    licences = sorted({one.licence or "other" for one in facts.ingredients})
    front = DatasetCardData(language="en", license=licences, tags=TAGS, configs=configs, **facts.front)
    card = DatasetCard(f"---\n{front.to_yaml()}\n---\n")
    card.text = _body(result, facts)
    return card


def shown_recipe(config: Mapping[str, Any], stages: Sequence[str]) -> dict[str, Any]:
    """The values of these stages in a job's config; of a class and of an absolute path, only the last name."""
    return {name: _shown(config[name]) for name in stages}


def _body(result: RunResult, facts: Facts) -> str:
    made = ["part", "name", "licence"], [[one.what, one.name, one.licence or UNKNOWN] for one in facts.ingredients]
    versions = ", ".join(f"{name} {result.versions[name]}" for name in VERSIONS if name in result.versions)
    recipe = yaml.safe_dump(dict(facts.recipe), sort_keys=False, allow_unicode=True, default_flow_style=None)
    parts = [
        f"# {facts.title}",
        *facts.summary,
        "## Use",
        f"```python\n{HERE}\n{facts.usage.strip()}\n```",
        "## Made from",
        markdown_table(*made, text_columns=3),
        "Whether these licences together allow what you want to do is for you to check.",
        *origin_notes([result]),
        "## Results",
        f"Of the job that made it: row {result.row}, seed {result.seed}. Intervals are 95 %.",
        *_results(result, facts),
        "## Recipe",
        f"```yaml\n{recipe.strip()}\n```",
        f"Revision of the code: {result.revision or 'not known'}. Made on {result.created[:10]} with {versions}.",
        "## Limits",
        "\n".join(f"- {one}" for one in facts.limits),
    ]
    return "\n" + "\n\n".join(parts) + "\n"


def _results(result: RunResult, facts: Facts) -> list[str]:
    lines = [
        [model.role, name, f"{100 * test.accuracy:.1f}", _interval(test), test.n]
        for model in result.models
        for name, test in model.test_sets.items()
    ]
    shown = {
        name: value
        for name, value in numbers(result).items()
        if name.startswith(tuple(facts.numbers)) and not DETAILS.intersection(name.split("."))
    }
    tables = [markdown_table(["model", "test set", "accuracy, %", "interval, %", "questions"], lines, text_columns=2)]
    if facts.numbers and shown:
        tables.append(markdown_table(["number", "value"], [[name, f"{value:.4g}"] for name, value in shown.items()]))
    return tables


def _interval(test: EvaluationResult) -> str:
    return f"{100 * test.interval_low:.1f} to {100 * test.interval_high:.1f}"


def _accuracies(result: RunResult) -> list[EvalResult]:
    """The accuracies of the last model, with their intervals, as the front matter of a card has them."""
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            metric_type="accuracy" if test.win_rate is None else "win_rate",
            metric_value=round(test.accuracy, 4),
            metric_args={
                "interval_95": [round(test.interval_low, 4), round(test.interval_high, 4)],
                "questions": test.n,
            },
        )
        for name, test in result.models[-1].test_sets.items()
    ]


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        named = {"class": value["_target_"].rpartition(".")[2]} if "_target_" in value else {}
        return named | {key: _shown(one) for key, one in value.items() if not key.startswith("_")}
    if isinstance(value, list):
        return [_shown(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def student_usage(prompt: str, before: Sequence[int], max_response_tokens: int) -> str:
    """How the student is asked; `before` are the special tokens before the prompt."""
    return f"""
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForCausalLM.from_pretrained(FOLDER)
PROMPT, BEFORE = {prompt!r}, {list(before)}


def respond(question):
    text = PROMPT.replace("{{question}}", question)
    ids = torch.tensor([BEFORE + tokenizer(text, add_special_tokens=False)["input_ids"]])
    written = model.generate(ids, max_new_tokens={max_response_tokens}, do_sample=False)
    return tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
"""


def reward_usage(prompt: str, before: Sequence[int], end_id: int, pooling: str) -> str:
    """How the reward model is asked; only with the pooling "last" does the class itself read the right state."""
    states = "model.base_model(input_ids=ids).last_hidden_state[0, len(asked) :]"
    read = "model(input_ids=ids).logits" if pooling == "last" else f"model.score({states}.mean(0))"
    return f"""
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForSequenceClassification.from_pretrained(FOLDER)
PROMPT, BEFORE, END = {prompt!r}, {list(before)}, {end_id}


@torch.no_grad()
def reward(question, response):
    text = PROMPT.replace("{{question}}", question)
    asked = BEFORE + tokenizer(text, add_special_tokens=False)["input_ids"]
    answered = tokenizer(response, add_special_tokens=False, split_special_tokens=True)["input_ids"] + [END]
    ids = torch.tensor([asked + answered])
    return float({read})
"""


def judge_usage(prompt: str, before: Sequence[int], yes: Sequence[int], no: Sequence[int]) -> str:
    """How the judge is asked."""
    return f"""
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForCausalLM.from_pretrained(FOLDER)
PROMPT, BEFORE = {prompt!r}, {list(before)}
YES, NO = {list(yes)}, {list(no)}  # the tokens of the two verdicts


@torch.no_grad()
def verdict(question, response):
    text = PROMPT.replace("{{question}}", question).replace("{{response}}", response)
    ids = torch.tensor([BEFORE + tokenizer(text, add_special_tokens=False)["input_ids"]])
    logits = model(ids).logits[0, -1].float()
    return float(torch.sigmoid(logits[YES].logsumexp(0) - logits[NO].logsumexp(0)))
"""


def data_usage(configs: Sequence[str]) -> str:
    """How the data are read."""
    return "from datasets import load_dataset\n\n" + "\n".join(
        f'{name} = load_dataset(FOLDER, "{name}")' for name in configs
    )
