"""The export of a model: a finished job and a folder enter; a model of plain transformers and its card leave."""

import json
from pathlib import Path

from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from rkd.data.chat_templates import render_chat
from rkd.data.judge_prompts import VerdictPrompt
from rkd.data.licences import licence_of_texts
from rkd.data.prompts import QUESTION, RESPONSE, PromptTemplate
from rkd.data.sources import StoredDataset
from rkd.generation.local import ModelFolder
from rkd.jobs.finished_job import FinishedJob, licence_of
from rkd.models.batches import encode
from rkd.models.loading import copy_model, load_tokenizer
from rkd.models.packaged import PACKAGED, packaged_at
from rkd.records import Query
from rkd.reporting.cards import (
    CARD,
    Facts,
    Ingredient,
    judge_usage,
    model_card,
    reward_usage,
    shown_recipe,
    student_usage,
)
from rkd.stages.judge_training import TrainedJudge

ASKED = Query("", "", QUESTION)
OF_STUDENT = (
    "arithmetic", "teacher_samples", "labels", "sft", "student_samples", "pairs", "dpo", "reward_model", "reward_mix",
    "rl",
)  # fmt: skip

HEAD_OF_LAST = "Its own forward gives the reward, which is read at the last token of the response."
HEAD_OF_MEAN = (
    "The reward is read from the mean of the states of the response's tokens. **The forward of the class reads the "
    "last token alone, and gives another number:** take the code below."
)


def export_student(job: FinishedJob, folder: Path) -> None:
    """The student of the job's row, after the last stage that trained it."""
    s, stage = job.stages, job.tuned
    assert stage is not None  # the job has this part
    tokenizer = _copied(job, stage, folder)
    _write_ends(folder, [tokenizer.eos_token_id, s.zero_shot.end_id(tokenizer)])
    limits = job.limits()
    if not s.student.calculator.is_left_out:
        limits.append("In the job a calculator wrote the results of its calculations. Here it has none.")
    if s.evaluation.inference.needs_reward_model:
        limits.append("The results of the last model are those of the best of several responses by a reward model.")
    facts = Facts(
        title=f"{job.result.row}: {s.student.name} on {s.dataset.name}",
        summary=[
            f"A student of {s.teacher.name}: {s.student.name} was trained on {s.dataset.name} by reward knowledge "
            "distillation (arXiv 2502.19557, arXiv 2604.02621). It is a causal language model."
        ],
        usage=student_usage(*asked_of_student(s.zero_shot, tokenizer), s.evaluation.max_response_tokens),
        ingredients=job.ingredients(),
        recipe=shown_recipe(job.result.config, OF_STUDENT),
        limits=limits,
        front={"pipeline_tag": "text-generation", **_of_hub(job, s.student)},
    )
    model_card(job.result, facts, is_evaluated=True).save(folder / CARD)


def export_reward_model(job: FinishedJob, folder: Path) -> None:
    """The reward model, as a sequence classifier with one label."""
    s = job.stages
    tokenizer = _copied(job, "reward_model", folder)
    pooling = getattr(AutoConfig.from_pretrained(folder), "reward_pooling", "last")
    end = s.zero_shot.end_id(tokenizer)
    facts = Facts(
        title=f"Reward model of {s.student.name} on {s.dataset.name}",
        summary=[
            f"It gives a number to a response to a question of {s.dataset.name}, a higher one to a better response. It "
            "was trained on pairs of responses (arXiv 2502.19557, Eqs. 7 to 9). It is an "
            "`AutoModelForSequenceClassification` with one label.",
            HEAD_OF_LAST if pooling == "last" else HEAD_OF_MEAN,
        ],
        usage=reward_usage(
            *asked_of_student(s.zero_shot, tokenizer), tokenizer.eos_token_id if end is None else end, pooling
        ),
        ingredients=job.ingredients(),
        recipe=shown_recipe(job.result.config, OF_STUDENT[: OF_STUDENT.index("reward_mix")]),
        limits=["Its numbers have no unit: compare those of responses to one question.", *job.limits()],
        numbers=("reward_model.",),
        front={"pipeline_tag": "text-classification", **_of_hub(job, s.student)},
    )
    model_card(job.result, facts, is_evaluated=False).save(folder / CARD)


def export_judge(job: FinishedJob, folder: Path) -> None:
    """The judge that the job has trained, whose next token is its verdict."""
    s, judge = job.stages, job.stages.judge
    assert isinstance(judge, TrainedJudge)  # the job has this part
    tokenizer, prompt = _copied(job, "judge", folder), judge.prompt
    yes, no = (prompt.spellings(word, tokenizer) for word in (prompt.yes_word, prompt.no_word))
    names = ", ".join(judge.teachers)
    facts = Facts(
        title=f"Judge {judge.name} on {s.dataset.name}",
        summary=[
            f"A judge of responses to questions of {s.dataset.name}: the share of Yes among Yes and No as its next "
            "token is its verdict, in [0, 1] (arXiv 2604.02621). It was trained on recorded responses, which the row's "
            "labels call right or wrong. It is a causal language model."
        ],
        usage=judge_usage(*asked_of_judge(prompt, tokenizer), yes, no),
        ingredients=[
            Ingredient(what="weights at the start", name=judge.name, licence=licence_of(judge)),
            *job.ingredients()[1:],
            Ingredient(what="texts judged in training", name=names, licence=licence_of_texts(judge.held_out)),
        ],
        recipe=shown_recipe(job.result.config, ("teacher_samples", "labels", "judge")),
        limits=["Break the delimiters of the prompt in a response before it is judged, as rkd does.", *job.limits()],
        numbers=("judge.", "judge_tests."),
        front={"pipeline_tag": "text-generation", **_of_hub(job, judge)},
    )
    model_card(job.result, facts, is_evaluated=False).save(folder / CARD)


def _copied(job: FinishedJob, stage: str, folder: Path) -> PreTrainedTokenizerBase:
    """Copy a stage's model without the other files beside it; return its tokenizer."""
    copy_model(job.artifact(stage).folder, folder)
    return load_tokenizer(folder)


def _write_ends(folder: Path, tokens: list[int | None]) -> None:
    """Let `generate` end at these tokens too."""
    path = folder / GENERATION_CONFIG_NAME
    config = json.loads(path.read_text(encoding="utf-8"))
    own = config.get("eos_token_id")
    ends = {*(own if isinstance(own, list) else [own]), *tokens} - {None}
    path.write_text(json.dumps({**config, "eos_token_id": sorted(ends)}, indent=2) + "\n", encoding="utf-8")


def asked_of_student(prompt: PromptTemplate, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
    """The text of a prompt with the question's place, and the special tokens before it, as `prompt.encode` has them."""
    if prompt.is_chat and tokenizer.chat_template:
        return prompt.render_chat(ASKED, tokenizer), []
    return _with_beginning(prompt.render(ASKED), tokenizer)


def asked_of_judge(prompt: VerdictPrompt, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
    """The same of a judge's prompt, with the places of question and response."""
    text = prompt.render(ASKED, RESPONSE)
    if prompt.is_chat and tokenizer.chat_template:
        turn = {"role": "user", "content": text}
        return render_chat(tokenizer, [turn], prompt.date, enable_thinking=False), []
    return _with_beginning(text, tokenizer)


def _with_beginning(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
    (whole,), plain = encode(tokenizer, [text]), tokenizer(text, add_special_tokens=False)["input_ids"]
    return text, whole[: len(whole) - len(plain)]


def _of_hub(job: FinishedJob, model: ModelFolder) -> dict[str, str]:
    """What the front matter names on the hub: the model at the start and the training questions, if they are there."""
    named, training = {}, job.stages.dataset.training
    if (packaged := packaged_at(model.name_or_path)) is not None:
        named["base_model"] = PACKAGED[packaged].hub
    elif model.local_folder() is None:
        named["base_model"] = model.name_or_path
    if isinstance(training, StoredDataset) and training.hub_path is not None:
        named["datasets"] = training.hub_path
    return named
