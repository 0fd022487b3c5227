"""Whether the models of a row can read what they will be given: a row enters, warnings leave, or an error.

A model has a vocabulary and, mostly, a number of positions. Prompts are known before a job begins, and so are the
limits of responses. A number outside the vocabulary, or a place behind the last learned position, would end the job in
the middle of a stage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import AutoConfig, PreTrainedTokenizerBase

from rkd.data.judge_prompts import VerdictPrompt
from rkd.data.prompts import PromptTemplate, special_tokens
from rkd.errors import ModelError
from rkd.generation.local import ModelFolder
from rkd.judges.base import ConfiguredJudge, NoJudge, asks_model
from rkd.models.loading import classifier_refusal, load_tokenizer, vocabulary_refusal
from rkd.pipeline.experiment import Stages, needs_labels, pretrained_lines, samples_student, table_lines, trains
from rkd.records import Query
from rkd.stages.gkd import GKD
from rkd.stages.reward_model import RewardModelTraining
from rkd.work import ANNOTATOR, JUDGE, STUDENT, TEACHER

SPARE_TOKENS = 16  # at the borders of a question, and for what may stand before a text
HOW_TO_ENLARGE = (
    "Put the tokenizer that belongs to the model into its folder, or give the model as many embeddings with "
    "`model.resize_token_embeddings(len(tokenizer))`, and save it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Prompts that a model will be given, and how long a text it reads with each at most.

    Args:
        tokens: of the response to a prompt; for a judge, of the response that it judges and of its reply.
        key: the key of the config that limits them.
    """

    role: str
    model: ModelFolder
    prompt: PromptTemplate | VerdictPrompt
    queries: Sequence[Query]
    tokens: int
    key: str

    def text_length(self, query: Query) -> int:
        """The characters of a prompt."""
        if isinstance(self.prompt, PromptTemplate):
            return len(self.prompt.render(query))
        return len(self.prompt.render(query, ""))

    def rows(self, queries: Sequence[Query], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """The tokens of the prompts of these queries, with an empty response for a judge."""
        if isinstance(self.prompt, PromptTemplate):
            return self.prompt.encode(queries, tokenizer)
        return self.prompt.encode(queries, [""] * len(queries), tokenizer)


@dataclass(frozen=True, slots=True)
class _Model:
    """The sizes of a local model, and its tokenizer.

    Args:
        vocabulary: the tokens that it has an embedding of.
        positions: the most tokens that it was made to read; None: it has no such number.
        is_hard: whether it cannot read more: its positions are learned or tabulated, not computed as they come.
    """

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    vocabulary: int
    positions: int | None
    is_hard: bool


def check_models(s: Stages, *, evaluate_only: bool = False) -> list[str]:
    """Refuse models that cannot read the row's prompts; return warnings about what they were not made to read.

    Only models on this machine are checked; their tokenizers are loaded, their weights are not.

    Raises:
        ModelError: a token has no embedding, a text does not fit into a model's positions, no reward model can be
            trained on the student, or a teacher whose probabilities are read has another vocabulary.
    """
    errors: list[str] = []
    warnings: list[str] = []
    models: dict[Path, _Model] = {}
    for reading in _readings(s, evaluate_only=evaluate_only):
        if not reading.queries or (folder := reading.model.local_folder()) is None:
            continue
        if folder not in models:
            models[folder] = _opened(folder)
            errors += _without_embedding(reading, models[folder])
        model = models[folder]
        suspects = _suspects(reading, model)
        rows = reading.rows(suspects, model.tokenizer)
        errors += _unknown_tokens(reading, suspects, rows, model)
        (errors if model.is_hard else warnings).extend(_too_long(reading, suspects, rows, model))
    if not evaluate_only and (folder := s.student.local_folder()) in models:
        (errors if models[folder].is_hard else warnings).extend(_too_long_to_train(s, models[folder]))
        if isinstance(s.reward_model, RewardModelTraining) and (refusal := classifier_refusal(folder)) is not None:
            errors.append(refusal)
        if s.rl.reads_teacher and isinstance(s.teacher, ModelFolder) and (teacher := s.teacher.local_folder()):
            errors += filter(None, [vocabulary_refusal(folder, teacher)])
    if errors:
        raise ModelError("\n".join(dict.fromkeys(errors)))
    return list(dict.fromkeys(warnings))


def _readings(s: Stages, *, evaluate_only: bool) -> Iterator[Reading]:
    """What each local model of the row reads, as far as it is known before the job."""
    tests = [query for queries in s.dataset.test_sets().values() for query in queries]
    evaluated = {"evaluation.max_response_tokens": s.evaluation.max_response_tokens}
    for line in pretrained_lines(s) if evaluate_only else table_lines(s):
        role = TEACHER if line.model == TEACHER else STUDENT
        yield from _limited(role, s.teacher if role == TEACHER else s.student, line.prompt, tests, evaluated)
    yield from _judged(ANNOTATOR, s.evaluation.annotator, tests, evaluated)
    if evaluate_only:
        return
    judged = dict(evaluated)
    training, validation = s.dataset.training_queries(), s.dataset.validation_queries()
    if not s.teacher_samples.is_recorded:
        own = {"teacher_samples.max_response_tokens": s.teacher_samples.max_response_tokens}
        asked = [*training, *validation] if trains(s) else training if needs_labels(s, "training") else []
        yield from _limited(TEACHER, s.teacher, s.teacher.prompt, asked, own)
        judged |= own
    if trains(s):
        yield from _limited(STUDENT, s.student, s.zero_shot, validation[: s.validation_queries], evaluated)
    if samples_student(s):
        own = {"student_samples.max_response_tokens": s.student_samples.max_response_tokens}
        yield from _limited(STUDENT, s.student, s.zero_shot, [*training, *validation], own)
        judged |= own
    if not s.rl.is_left_out:
        own = {"rl.rollouts.max_response_tokens": s.rl.rollouts.max_response_tokens}
        unlabelled = s.dataset.unlabelled_queries() if "unlabelled" in s.reward_mix.streams else []
        yield from _limited(STUDENT, s.student, s.zero_shot, [*training, *unlabelled], own)
        judged |= own
    yield from _judged(JUDGE, s.judge, training, judged)


def _limited(
    role: str,
    model: object,
    prompt: PromptTemplate | VerdictPrompt | None,
    queries: Sequence[Query],
    limits: dict[str, int],
    reply: int = 0,
) -> Iterator[Reading]:
    if isinstance(model, ModelFolder) and prompt is not None:
        key = max(limits, key=lambda name: limits[name])
        yield Reading(role=role, model=model, prompt=prompt, queries=queries, tokens=limits[key] + reply, key=key)


def _judged(
    role: str, judge: ConfiguredJudge | NoJudge, queries: Sequence[Query], limits: dict[str, int]
) -> Iterator[Reading]:
    if asks_model(judge):
        yield from _limited(role, judge, judge.prompt, queries, limits, judge.reply_tokens)


def _opened(folder: Path) -> _Model:
    config = AutoConfig.from_pretrained(folder).get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    is_hard = not getattr(config, "rope_parameters", None)
    return _Model(folder, load_tokenizer(folder), config.vocab_size, positions, is_hard)


def _suspects(reading: Reading, model: _Model) -> Sequence[Query]:
    """The queries whose prompts have to be tokenized, to see whether the model can read them.

    A question in ASCII has no more tokens than characters, so that most prompts need not be.
    """
    if max(model.tokenizer.get_vocab().values()) >= model.vocabulary:
        return reading.queries
    if model.positions is None:
        return []
    first = reading.queries[0]
    bare = replace(first, question="", gold_answer=first.gold_answer and "")
    (without_question,) = reading.rows([bare], model.tokenizer)
    room = model.positions - reading.tokens - len(without_question) - SPARE_TOKENS + reading.text_length(bare)
    return [
        query
        for query in reading.queries
        if not (query.question + (query.gold_answer or "")).isascii() or reading.text_length(query) > room
    ]


def _without_embedding(reading: Reading, model: _Model) -> list[str]:
    """The tokens that text may hold, or that end it, and that the model has no embedding of."""
    tokenizer, prompt = model.tokenizer, reading.prompt
    # A text that spells out a special token does not hold it; a prompt may, or a response as its end.
    ends = {tokenizer.eos_token_id, prompt.end_id(tokenizer) if isinstance(prompt, PromptTemplate) else None}
    unused = set(special_tokens(tokenizer))
    numbers = {token: number for token, number in tokenizer.get_vocab().items() if number >= model.vocabulary}
    beyond = [token for token, number in numbers.items() if token not in unused or number in ends]
    if not beyond:
        return []
    return [
        f"{reading.role} {model.folder} has embeddings of {model.vocabulary:,} tokens, and its tokenizer knows "
        f"{len(tokenizer):,}: a text may hold {beyond[0]!r}, which the model cannot read. {HOW_TO_ENLARGE}"
    ]


def _unknown_tokens(
    reading: Reading, queries: Sequence[Query], rows: Sequence[Sequence[int]], model: _Model
) -> list[str]:
    for query, row in zip(queries, rows, strict=True):
        if (number := max(row, default=0)) >= model.vocabulary:
            token = model.tokenizer.convert_ids_to_tokens(number)
            return [
                f"{reading.role} {model.folder} has embeddings of {model.vocabulary:,} tokens, and the prompt of the "
                f"question {query.id} holds {token!r}, number {number:,}, which it cannot read. {HOW_TO_ENLARGE}"
            ]
    return []


def _too_long(reading: Reading, queries: Sequence[Query], rows: Sequence[Sequence[int]], model: _Model) -> list[str]:
    if model.positions is None or not rows:
        return []
    length, question = max((len(row), query.id) for row, query in zip(rows, queries, strict=True))
    beyond = length + reading.tokens - model.positions
    if length >= model.positions:
        count = sum(len(row) >= model.positions for row in rows)
        return [
            f"{reading.role} {model.folder} has {model.positions:,} positions, and {count:,} of "
            f"{len(reading.queries):,} prompts leave no room for a response in them: that of the question {question} "
            f"has {length:,} tokens. Leave these questions out of the dataset's file, give fewer examples, or take a "
            "model with more positions."
        ]
    if beyond > 0:
        return [
            f"{reading.role} {model.folder} has {model.positions:,} positions. The prompt of the question {question} "
            f"has {length:,} tokens, and {reading.tokens:,} may follow: lower {reading.key} by {beyond:,}, give fewer "
            "examples, or take a model with more positions."
        ]
    return []


def _too_long_to_train(s: Stages, model: _Model) -> list[str]:
    trained = {"sft": s.sft, "dpo": s.dpo, "reward_model": s.reward_model}
    limits = {name: stage.max_tokens for name, stage in trained.items() if not stage.is_left_out}
    if isinstance(s.rl, GKD):
        limits["rl"] = s.rl.max_tokens
    return [
        f"{STUDENT} {model.folder} has {model.positions:,} positions, and {name} would train it on texts of up to "
        f"{limit:,} tokens: set {name}.max_tokens={model.positions}."
        for name, limit in limits.items()
        if model.positions is not None and limit > model.positions
    ]
