"""The expected score: where a reply states its grade, the mean by hand, and the probabilities behind it."""

import math

import pytest
import torch

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import PromptTemplate
from rkd.judges.expected_score import ExpectedScore, expected_score, graded
from rkd.judges.written import Written, WrittenJudge, read_grade, read_score
from rkd.mini.tokenizer import train_tokenizer
from rkd.models.policy import Policy
from rkd.records import Query, Response
from tests.support.fakes import ScriptedGenerator
from tests.support.tiny_models import llama
from tests.support.tiny_tokenizers import folder_of

PROMPT = PromptTemplate(template="Q: {question} A:")
QUERIES = [Query("a", "svamp", "What is 1?"), Query("b", "svamp", "What is 20?"), Query("c", "svamp", "What is 3?")]


def test_the_mean_over_the_grades_worked_by_hand():
    # p = (1/8, 1/8, 3/4) for the scores 0, 0.5 and 1: 0 + 1/16 + 3/4; a common factor cancels.
    logprobs = torch.tensor([1.0, 1.0, 6.0]).log() - 7.5
    assert expected_score(torch.tensor([0.0, 0.5, 1.0]), logprobs) == pytest.approx(13 / 16)


def test_a_certain_judge_has_its_grade_as_the_expected_score():
    assert expected_score(torch.tensor([0.0, 0.4, 1.0]), torch.tensor([-1e4, 0.0, -1e4])) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("reply", "read", "before", "grades"),
    [
        ("Step 2 is wrong.\nScore: 4", read_grade, "Step 2 is wrong.\nScore: ", range(6)),
        ("Score: 5/5. All 3 steps are right.", read_grade, "Score: ", range(6)),
        ("Score: 1\n3 steps.\nScore: 2 points", read_grade, "Score: 1\n3 steps.\nScore: ", range(6)),
        ("Score: 2\nStill\nScore: 2", read_grade, "Score: 2\nStill\nScore: ", range(6)),
        ("4", read_score, "", range(1, 6)),
        ("3 out of 5", read_score, "", range(1, 6)),
        ("**2** since 12 + 7 is 19.", read_score, "**", range(1, 6)),
    ],
)
def test_the_other_grades_stand_where_the_reply_states_its_own(reply, read, before, grades):
    found = graded(reply, read)
    assert list(found) == [f"{before}{grade}" for grade in grades]
    assert found == {text: read(text) for text in found}


@pytest.mark.parametrize("reply", ["Right.", "Well, well.", "", "7", "Score: 45"])
def test_a_reply_without_a_number_of_the_scale_has_no_other_grades(reply):
    assert graded(reply, read_score) == {}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Q: What is 1? A: Score: 0 1 2 3 4 5 Step. 20 3"] * 9, 400)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return Policy(llama(vocab_size=len(tokenizer), pad_token_id=0)).eval()


def by_whole_texts(model, tokenizer, query: Query, texts: dict[str, float]) -> float:
    """The mean score of the texts by their probabilities, each from a forward pass of its own."""
    prompt = PROMPT.encode([query], tokenizer)[0]
    mass = {}
    for text in texts:
        answer = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logprobs = model.lm(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        mass[text] = math.exp(sum(float(logprobs[at, token]) for at, token in zip(places, answer, strict=True)))
    return sum(texts[text] * own for text, own in mass.items()) / sum(mass.values())


def test_the_probabilities_are_those_of_the_model_that_wrote_the_reply(model, tokenizer):
    replies = ["Step.\nScore: 4", "Step.", "Score: 1/5"]
    scores = ExpectedScore(model, tokenizer, PROMPT, read_grade)(QUERIES, replies)
    expected = [
        by_whole_texts(model, tokenizer, QUERIES[place], graded(replies[place], read_grade)) for place in (0, 2)
    ]
    assert [scores[0], scores[2]] == pytest.approx(expected, rel=1e-4)
    assert scores[1] is None
    assert scores[0] not in {grade / 5 for grade in range(6)}


def test_a_verdict_in_words_keeps_its_score(model, tokenizer):
    assert ExpectedScore(model, tokenizer, PROMPT, read_score)(QUERIES[:2], ["Right.", "wrong"]) == [1.0, 0.0]


def test_a_written_judge_gives_the_expected_score_in_place_of_the_grade(model, tokenizer):
    generator = ScriptedGenerator(greedy={"a": "Score: 4", "b": "Well, well.", "c": "Score: 4"})
    expected = ExpectedScore(model, tokenizer, PROMPT, read_grade)
    judge = Written(generator, JudgePrompt(), 7, read_reply=read_grade, expected=expected)
    scores = judge.judge(QUERIES, [Response(query.id, "model", 0, "The answer is 1.", True) for query in QUERIES])
    assert scores[1] is None
    assert 0 < scores[0] < 1
    assert scores[0] != 0.8


def test_the_expected_score_is_another_judge_and_the_grade_is_the_judge_that_it_was(tokenizer, tmp_path):
    def judge(**settings) -> WrittenJudge:
        folder = str(folder_of(tokenizer, tmp_path).folder)
        return WrittenJudge(name="tiny", name_or_path=folder, prompt=JudgePrompt(), max_reply_tokens=4, **settings)

    assert "expected_score" not in judge().content()
    assert judge(expected_score=True).content() == {**judge().content(), "expected_score": True}
    opened = judge(expected_score=True).open()
    assert opened.expected.read_reply is read_score
    assert judge().open().expected is None
