"""Models that cannot read what a row will give them are named before the row begins, with the question."""

import dataclasses

import pytest
from transformers import PreTrainedTokenizerBase

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import PromptTemplate
from rkd.errors import ModelError
from rkd.generation.local import LocalModel
from rkd.jobs.model_checks import check_models
from rkd.judges.likelihood import LikelihoodJudge
from rkd.judges.single_token import YesNoJudge
from rkd.records import Query
from rkd.stages.dpo import NoDPO
from rkd.stages.reward_model import NoRewardModel
from rkd.stages.sft import NoSFT
from tests.jobs.test_work_plan import FixedData, parts
from tests.support import tiny_tokenizers
from tests.support.tiny_models import gpt2, llama
from tests.support.tiny_tokenizers import LAYOUTS, added

PROMPT = PromptTemplate(template="{question}")
UNTRAINED = {"sft": NoSFT(), "dpo": NoDPO(), "reward_model": NoRewardModel()}


class Asked(FixedData):
    """Questions of one token, but for those that are given, by their place: "training", "validation" or "test"."""

    def __init__(self, **others: str) -> None:
        self.others = others

    def _queries(self, place: str, prefix: str) -> list[Query]:
        questions = ["!", "!", self.others.get(place, "!"), "!"]
        return [Query(f"{prefix}{number}", "svamp", text, "1") for number, text in enumerate(questions)]

    def training_queries(self):
        return self._queries("training", "t")

    def validation_queries(self):
        return self._queries("validation", "v")

    def test_sets(self):
        return {"test": self._queries("test", "e")}


def folder_of(tokenizer: PreTrainedTokenizerBase, folder, *, positions=96, vocabulary=None, is_hard=True) -> str:
    """A model folder: a GPT-2 with learned positions, or a Llama that computes them."""
    sizes = {"vocab_size": vocabulary or len(tokenizer)}
    model = gpt2(**sizes) if is_hard else llama(max_position_embeddings=positions, **sizes)
    if is_hard:
        model.config.n_positions = positions  # the weights are not loaded
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def row(tmp_path):
    """Makes a row whose teacher and student are the same folder."""

    def make(tokenizer=None, *, dataset=None, positions=96, vocabulary=None, is_hard=True, **others):
        tokenizer = tokenizer or tiny_tokenizers.gpt2()
        folder = folder_of(tokenizer, tmp_path, positions=positions, vocabulary=vocabulary, is_hard=is_hard)
        model = LocalModel(name="tiny", name_or_path=folder, prompt=PROMPT)
        own = {"dataset": dataset or Asked(), "zero_shot": PROMPT, **UNTRAINED, **others}
        return parts({"teacher": model, "student": model}, **own)

    return make


def longer(tokens: int) -> str:
    """A question of so many tokens: a letter that stands in no longer token."""
    return "Z" * tokens


@pytest.mark.parametrize(
    ("place", "question", "limit", "key"),  # the limits of `parts`
    [
        ("training", "t2", 20, "rl.rollouts"),
        ("validation", "v2", 30, "evaluation"),
        ("test", "e2", 30, "evaluation"),
    ],
)
def test_a_question_fits_with_its_longest_response_or_is_named(row, place, question, limit, key):
    check_models(row(dataset=Asked(**{place: longer(96 - limit)})))
    words = (
        rf"question {question} has {97 - limit} tokens, and {limit} may follow: lower {key}.max_response_tokens by 1,"
    )
    with pytest.raises(ModelError, match=words):
        check_models(row(dataset=Asked(**{place: longer(97 - limit)})))


def test_a_question_that_leaves_no_room_is_named_with_the_number_of_such(row):
    with pytest.raises(ModelError, match=r"1 of 4 prompts leave no room .* question e2 has 96 tokens\. Leave these"):
        check_models(row(dataset=Asked(test=longer(96))))


def test_a_model_that_computes_its_positions_is_warned_of(row):
    assert check_models(row(dataset=Asked(test=longer(66)), is_hard=False)) == []
    warnings = check_models(row(dataset=Asked(test=longer(67)), is_hard=False))
    assert [warning.partition(" ")[0] for warning in warnings] == ["teacher", "student"]
    assert all("question e2 has 67 tokens" in warning for warning in warnings)


def test_a_question_in_another_script_is_measured_in_tokens(row):
    # 30 signs of 3 bytes, each a token: 90 tokens, and a response of 30.
    with pytest.raises(ModelError, match="question e2 has 90 tokens"):
        check_models(row(dataset=Asked(test="語" * 30)))


def test_a_dry_check_of_an_evaluation_reads_tests_alone(row):
    broken = row(dataset=Asked(training=longer(97)))
    assert check_models(broken, evaluate_only=True) == []
    with pytest.raises(ModelError, match="question t2"):
        check_models(broken)


@pytest.mark.parametrize("is_hard", [True, False])
def test_a_training_on_longer_texts_than_positions_is_named_by_its_key(row, is_hard):
    trained = parts({})
    made = row(positions=63, is_hard=is_hard, sft=trained.sft, reward_model=trained.reward_model)
    words = ["sft.max_tokens=63", "reward_model.max_tokens=63"]  # both have 64
    if is_hard:
        with pytest.raises(ModelError, match=rf"(?s){words[0]}.*{words[1]}"):
            check_models(made)
    else:
        assert [word in warning for word, warning in zip(words, check_models(made), strict=True)] == [True, True]


def test_a_model_without_a_number_of_positions_reads_any_length(row):
    made = row(dataset=Asked(test=longer(500)), is_hard=False)
    config = made.student.local_folder() / "config.json"
    config.write_text(
        '{"model_type": "bloom", "hidden_size": 16, "n_head": 2, "n_layer": 1, "vocab_size": 293}', encoding="utf-8"
    )
    assert check_models(made) == []


def test_a_student_whose_family_has_no_classifier_is_refused_if_a_reward_model_is_trained(row):
    made = row(is_hard=False)
    settings = made.student.local_folder() / "config.json"
    settings.write_text(settings.read_text(encoding="utf-8").replace('"llama"', '"granite"'), encoding="utf-8")
    check_models(made)
    made.reward_model = parts({}).reward_model
    with pytest.raises(ModelError, match=r"no sequence classifier of the family granite\. Choose"):
        check_models(made)
    check_models(made, evaluate_only=True)


def test_a_teacher_that_cannot_read_the_students_tokens_is_refused_where_its_probabilities_are_read(row, tmp_path):
    made = row()
    other = folder_of(tiny_tokenizers.gpt2(), tmp_path / "more", vocabulary=len(tiny_tokenizers.gpt2()) + 8)
    made.teacher = dataclasses.replace(made.teacher, name_or_path=other)
    made.rl = dataclasses.replace(made.rl, kl=dataclasses.replace(made.rl.kl, target="teacher"))
    check_models(made)  # more embeddings than tokens are no other vocabulary
    made.teacher, made.student = made.student, made.teacher
    with pytest.raises(ModelError, match=r"cannot read the tokens of the student .*two models of one family"):
        check_models(made)
    made.rl = parts({}).rl
    check_models(made)


def test_an_ordinary_token_without_embedding_is_refused(row):
    tokenizer = tiny_tokenizers.gpt2()
    tokenizer.add_tokens(["kilometres"])
    check_models(row(tokenizer))
    with pytest.raises(ModelError, match=r"embeddings of 293 tokens.*knows 294.*'kilometres'.*resize_token_embeddings"):
        check_models(row(tokenizer, vocabulary=293))


def test_the_question_with_a_token_without_embedding_is_named(row):
    tokenizer = tiny_tokenizers.gpt2()
    tokenizer.add_tokens(["kilometres"])
    with pytest.raises(ModelError, match=r"question v2 holds 'kilometres', number 293"):
        check_models(row(tokenizer, vocabulary=293, dataset=Asked(validation="9 kilometres")))


def test_a_special_token_without_embedding_is_refused_only_where_it_is_used(row):
    unused = tiny_tokenizers.gpt2()
    unused.add_tokens([added("<image>", special=True)])
    unused.add_special_tokens({"pad_token": "[PAD]"})
    assert check_models(row(unused, vocabulary=293)) == []
    end = tiny_tokenizers.qwen()  # <|im_end|> is the last token
    with pytest.raises(ModelError, match=r"may hold '<\|im_end\|>'"):
        check_models(row(end, vocabulary=len(end) - 1))


def test_a_validation_is_limited_by_the_evaluation_not_by_the_teacher(row):
    samples = dataclasses.replace(parts({}).teacher_samples, max_response_tokens=60)
    # 36 tokens of a question and 60 of the teacher's response are 96, as many as the positions.
    assert check_models(row(dataset=Asked(validation=longer(36)), teacher_samples=samples)) == []
    with pytest.raises(ModelError, match=r"^teacher [^\n]* 60 may follow: lower teacher_samples\.[^\n]*by 1,[^\n]*$"):
        check_models(row(dataset=Asked(validation=longer(37)), teacher_samples=samples))


def test_a_judge_reads_the_response_and_the_question(row, tmp_path_factory):
    folder = folder_of(tiny_tokenizers.gpt2(), tmp_path_factory.mktemp("judge"), positions=96)
    template = "{question}<response>{response}</response>"
    # In `row`, the longest limit of what a judge reads is the evaluation's, 30; its verdict is one more token.
    judge = YesNoJudge(name="judge", name_or_path=folder, prompt=JudgePrompt(template=template))
    tokens = len(judge.prompt.encode([Query("q", "svamp", "!")], [""], tiny_tokenizers.gpt2())[0])
    room = 96 - 31 - tokens
    made = row(positions=10**4, judge=judge, dataset=Asked(training=longer(1 + room)))
    assert check_models(made) == []
    with pytest.raises(ModelError, match=rf"judge {folder}.*question t2 .* 31 may follow"):
        check_models(row(positions=10**4, judge=judge, dataset=Asked(training=longer(2 + room))))
    likely = LikelihoodJudge(name="judge", name_or_path=folder, prompt=PROMPT)
    assert check_models(row(positions=10**4, judge=likely, dataset=Asked(training=longer(66)))) == []
    with pytest.raises(ModelError, match=r"question t2 has 67 tokens, and 30 may follow"):
        check_models(row(positions=10**4, judge=likely, dataset=Asked(training=longer(67))))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokenizers_of_all_layouts_pass_with_as_many_embeddings_as_tokens(row, layout):
    tokenizer = LAYOUTS[layout]()
    assert check_models(row(tokenizer, positions=256)) == []


def test_a_model_that_is_not_here_is_not_checked(row):
    made = row(dataset=Asked(test=longer(500)))
    elsewhere = dataclasses.replace(made.student, name_or_path="some-org/some-model-1B")
    made.student = made.teacher = elsewhere
    assert check_models(made) == []
