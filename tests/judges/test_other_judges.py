"""The judges that are no single token: a written score that is read, and the likelihood of a response."""

import pytest
import torch

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import PromptTemplate
from rkd.judges.base import Remembered, Verdict
from rkd.judges.likelihood import LikelihoodJudge, LocalLikelihood
from rkd.judges.written import Written, WrittenJudge, read_grade, read_score
from rkd.mini.tokenizer import train_tokenizer
from rkd.models.batches import encode
from rkd.models.policy import Policy
from rkd.protocols import Sampling
from rkd.records import Query, Response
from tests.support import tiny_tokenizers
from tests.support.fakes import ScriptedGenerator
from tests.support.tiny_models import llama
from tests.support.tiny_tokenizers import folder_of

QUERIES = [Query("a", "svamp", "What is 1?"), Query("b", "svamp", "What is 2?"), Query("c", "svamp", "What is 3?")]
PROMPT = PromptTemplate(template="Q: {question} A:")
TEXTS = ["Q: What is 1? A: 1 2 3 </response> Verdict: Yes No"] * 9


def response(query: Query, text: str, *, is_finished: bool = True) -> Response:
    return Response(query.id, "model", 0, text, is_finished)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("5", 1.0),
        (" 1.", 0.0),
        ("Score: 4", 0.75),
        ("**3**", 0.5),
        ("2/5", 0.25),
        ("4 out of 5. The last step is right.", 0.75),
        ("3\nThe way is sensible.", 0.5),
        ("Right", 1.0),
        ("Verdict: wrong, since 2 + 2 = 4.", 0.0),
        ("incorrect.", 0.0),
        ("", None),
        ("6", None),
        ("0", None),
        ("4.5", None),
        ("45", None),
        ("1 to 5", None),
        ("On a scale of 1 to 5, I would say", None),
        ("3 apples are left.", None),
        ("5 + 3 = 8", None),
        ("I cannot tell.", None),
    ],
)
def test_a_written_score_is_read_or_nothing_is(reply, score):
    assert read_score(reply) == score


def test_a_written_verdict_is_decoded_greedily_and_an_unreadable_one_is_none():
    generator = ScriptedGenerator(greedy={"a": "Score: 5", "b": "Well, well.", "c": "2"})
    done = []
    judge = Written(generator, JudgePrompt(), 7, done.append)
    asked = [response(query, "The answer is 1.") for query in QUERIES]
    assert judge.judge(QUERIES, asked) == [1.0, None, 0.25]
    assert judge.verdicts(QUERIES[1:], asked[1:]) == [None, Verdict(0.25)]  # both are remembered
    ((ids, sampling, _),) = [call for call in generator.asked if call[0]]
    assert (ids, sampling) == (["a", "b", "c"], Sampling(0.0, 1, 7))
    assert judge.unread == ["Well, well."]
    assert sum(done) == 2  # known ones; the generator counts the others


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


@pytest.fixture(scope="module")
def model(tokenizer):
    return Policy(llama(vocab_size=len(tokenizer), pad_token_id=0)).eval()


def alone(model, tokenizer, query: Query, text: str, end: list[int]) -> float:
    """The geometric mean of the response's probabilities, by a forward pass over prompt and response alone."""
    prompt, answer = PROMPT.encode([query], tokenizer)[0], encode(tokenizer, [text])[0] + end
    with torch.no_grad():
        logprobs = model.lm(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return float(
        torch.stack([logprobs[place, token] for place, token in zip(places, answer, strict=True)]).mean().exp()
    )


def test_a_likelihood_is_the_geometric_mean_of_the_tokens_probabilities(model, tokenizer):
    judge, end = LocalLikelihood(model, tokenizer, PROMPT), [tokenizer.eos_token_id]
    asked = [(QUERIES[0], "1 2"), (QUERIES[1], "3"), (QUERIES[0], "2 2 2 1"), (QUERIES[2], "")]
    finished = judge.judge(*zip(*((query, response(query, text)) for query, text in asked), strict=True))
    assert finished == pytest.approx([alone(model, tokenizer, query, text, end) for query, text in asked], rel=1e-4)
    cut = judge.judge([QUERIES[0]], [response(QUERIES[0], "1 2", is_finished=False)])
    assert cut == pytest.approx([alone(model, tokenizer, QUERIES[0], "1 2", [])], rel=1e-4)
    assert all(0 < score < 1 for score in finished)


def test_a_response_without_a_token_has_no_likelihood(model, tokenizer):
    done = []
    judge = LocalLikelihood(model, tokenizer, PROMPT, advance=done.append, remembered=Remembered(limit=1))
    asked = [response(QUERIES[0], "", is_finished=False), response(QUERIES[1], "1")]
    first, second = judge.verdicts(QUERIES[:2], asked)
    assert first is None
    assert second.mass is None
    assert sum(done) == 2
    assert judge.verdicts([], []) == []


@pytest.mark.parametrize(
    "judge_of",
    [
        lambda folder: LikelihoodJudge(name="judge", name_or_path=folder, prompt=PROMPT),
        lambda folder: WrittenJudge(name="judge", name_or_path=folder, prompt=JudgePrompt(), max_reply_tokens=3),
    ],
)
def test_the_judge_of_a_config_opens_its_folder(tmp_path, model, tokenizer, judge_of):
    model.lm.generation_config.eos_token_id = tokenizer.eos_token_id
    model.lm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = judge_of(str(tmp_path))
    verdicts = judge.open().judge(QUERIES, [response(query, "1") for query in QUERIES])
    assert len(verdicts) == 3
    assert all(verdict is None or 0 <= verdict <= 1 for verdict in verdicts)
    assert judge.content()["model"].folder == tmp_path


@pytest.mark.parametrize("own", [{"date": "2025-02-03"}, {"is_chat": False}])
def test_a_writing_judge_is_asked_in_the_form_of_its_prompt(tmp_path, own):
    folder = folder_of(tiny_tokenizers.llama3(), tmp_path).folder
    prompt = JudgePrompt(**own)
    opened = WrittenJudge(name="judge", name_or_path=str(folder), prompt=prompt, max_reply_tokens=3).open()
    assert (opened.generator.prompt.date, opened.generator.prompt.is_chat) == (prompt.date, prompt.is_chat)


@pytest.mark.parametrize("setting", [{"max_reply_tokens": 0}, {"max_reply_tokens": 3, "threshold": 5}])
def test_settings_of_a_writing_judge_outside_their_range_are_refused(setting):
    with pytest.raises(ValueError, match=f"judge.{list(setting)[-1]}=.: must be "):
        WrittenJudge(name="judge", name_or_path="folder", prompt=JudgePrompt(), **setting)


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("Score: 5", 1.0),
        ("It lists two fruits. The third is none.\nScore: 2", 0.4),
        ("Good.\n**Score:** 4", 0.8),
        ("- score : 0", 0.0),
        ("Score: 3/5", 0.6),
        ("Score: 3 out of 5", 0.6),
        ("Score: 1 for the first part.\nScore: 4", 0.8),
        ("The score: 4 is what I would give", None),
        ("Score: 6", None),
        ("Score: 45", None),
        ("Score: 4.5", None),
        ("Score: 4/10", None),
        ("Score:", None),
        ("", None),
    ],
)
def test_a_grade_stands_in_a_line_of_its_own_behind_the_evidence(reply, grade):
    assert read_grade(reply) == grade
