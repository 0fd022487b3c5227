"""The cost_estimate of a dry run, worked by hand."""

import dataclasses
import re
from types import SimpleNamespace

import pytest

from rkd.data.judge_prompts import ComparePrompt, JudgePrompt
from rkd.data.prompts import PromptTemplate
from rkd.data.recorded_responses import StoredTeacher
from rkd.evaluation.accuracy import Evaluation
from rkd.generation.endpoint_server import Server
from rkd.generation.endpoint_teacher import EndpointTeacher
from rkd.generation.local import LocalModel
from rkd.jobs.cost_estimate import CostEstimate
from rkd.judges.base import NoJudge
from rkd.judges.endpoint_single_token import EndpointJudge
from rkd.judges.endpoint_written import EndpointWrittenJudge
from rkd.judges.gold import GoldJudge
from rkd.judges.likelihood import LikelihoodJudge
from rkd.judges.single_token import YesNoJudge
from rkd.judges.written import WrittenJudge
from rkd.models.loading import count_weights
from rkd.protocols import Sampling
from rkd.work import Work
from tests.support import tiny_world
from tests.support.jobs import run

# Ten operations a second, of which sampling reaches a half and training a fifth.
ESTIMATE = CostEstimate(
    gpu_tflops=10e-12, gpu_memory_gb=80, sampling_share=0.5, training_share=0.2, gpu_hour_price=3.0, prompt_price=1e6,
    response_price=2e6, characters_per_token=2, cpu_sampling_share=0.5, cpu_training_share=0.2,
)  # fmt: skip
SAMPLED = Work("teacher, first pass", "4 × 5", "teacher", 10, [(4, Sampling(1.0, 5, 10))])
TRAINED = Work("rl", "8 responses", "student", 10, [(2, Sampling(1.0, 4, 10))], trained=8, group_size=4)


def parts(teacher_parameters=36.0, **teacher):
    prompt = PromptTemplate(template="{question}--")

    class Data:
        name, repeated_questions, is_verifiable = "sums", 0, "annotator" not in teacher

        def training_queries(self):
            return [tiny_world.Query("q", "sums", "12"), tiny_world.Query("r", "sums", "123456")]  # 6 characters each

        def test_sets(self):
            return {"sums": [tiny_world.Query("t", "sums", "12", "3456")]}

    local = LocalModel(name="big", name_or_path="nobody/absent", prompt=prompt, parameters=teacher_parameters)
    student = LocalModel(name="small", name_or_path="nobody/absent-3B", prompt=prompt, parameters=9.0)
    judge = teacher.get("judge", NoJudge())
    annotator = teacher.get("annotator", NoJudge())
    own = {"student": student, "zero_shot": prompt, "dataset": Data(), "judge": judge}
    own["evaluation"] = Evaluation(max_response_tokens=10, annotator=annotator)
    return SimpleNamespace(teacher=teacher.get("teacher", local), **own)


def test_hours_on_this_processor_are_those_of_its_products_just_now():
    own = parts()
    assert "  here  " not in "\n".join(ESTIMATE.lines(own, [TRAINED]))  # a job measures a small student itself
    own.student = dataclasses.replace(own.student, parameters=1e8)
    trained = dataclasses.replace(TRAINED, trained=8 * 10**7)
    said = re.search(r"about ([\d,.]+) hours on .* reach (\d+\.\d+) TFLOPS", "\n".join(ESTIMATE.lines(own, [trained])))
    # 6 operations for each of 10⁸ weights and 8 · 10⁷ · (10 + 3 / 4) tokens; sampling is nothing beside them.
    hours = 6e8 * 8e7 * 10.75 / (float(said[2]) * 1e12 * ESTIMATE.cpu_training_share) / 3600
    assert float(said[1].replace(",", "")) == pytest.approx(hours, rel=0.1)


def test_tokens_and_hours_of_each_stage():
    lines = ESTIMATE.lines(parts(), [SAMPLED, TRAINED])
    # Prompts of (4 + 8) / 2 = 6 characters are 3 tokens. Teacher: 4 prompts are 12 tokens, 20 responses of 10 are 200.
    # 2 × 36 weights × 212 tokens at 5 a second: 3,052.8 s.
    assert lines[1].split() == ["teacher,", "first", "pass", "4", "×", "5", "12", "200", "0", "0.85"]
    # Student: 6 + 80 tokens at 5 a second: 2 × 9 × 86 / 5 = 309.6 s; 8 × (3 / 4 + 10) = 86 tokens, 6 × 9 × 86 at 2 a
    # second: 2,322 s.
    assert lines[2].split() == ["rl", "8", "responses", "6", "80", "86", "0.73"]
    assert lines[3].split() == ["all", "1.58"]
    text = "\n".join(lines)
    assert "teacher  big: 12 tokens read, 200 written; 0.85 GPU hours" in text
    assert "student  small: 6 tokens read, 80 written, 86 trained on; 0.73 GPU hours" in text
    assert "judge    none in this row" in text
    assert "cost     5 at 3 for a GPU hour" in text
    assert "needs an endpoint" not in text


# 24 characters beside the question of 2 or 6, 28 on average: 14 tokens. Verdicts on 20 responses of 10 tokens, 5 to a
# query.
JUDGE_PROMPT = JudgePrompt(template="{question}<response>{response}</response>---")
JUDGED = Work("judge, labels", "20 responses", "judge", 10, judged=20, group_size=5)
LOCAL = {"name": "strict", "name_or_path": "nobody/absent", "parameters": 4.0}
SERVED = {"name": "strict", "model": "served", "prompt": JUDGE_PROMPT}


def judged_by(judge) -> list[str]:
    return [" ".join(line.split()) for line in ESTIMATE.lines(parts(judge=judge), [JUDGED])]


def test_a_judge_that_is_here_reads_each_response_once_and_a_querys_prompt_once():
    # 20 × (14 / 5 + 10) = 256 tokens read: 2 × 4 weights × 256 at 2 a second are 1,024 s; 20 written at 5, 32 s.
    lines = judged_by(YesNoJudge(**LOCAL, prompt=JUDGE_PROMPT))
    assert lines[1] == "judge, labels 20 responses 256 20 0 0.29"
    assert "judge strict: 256 tokens read, 20 written; 0.29 GPU hours" in lines


def test_a_judge_that_writes_reads_each_prompt_and_a_likelihood_writes_nothing():
    # 20 × (14 + 10), and 3 tokens each; the likelihood's prompt is the teacher's, 3 tokens: 20 × (3 / 5 + 10).
    assert judged_by(WrittenJudge(**LOCAL, prompt=JUDGE_PROMPT, max_reply_tokens=3))[1].split()[4:6] == ["480", "60"]
    assert judged_by(LikelihoodJudge(**LOCAL, prompt=parts().teacher.prompt))[1].split()[4:6] == ["212", "0"]


def test_a_judge_behind_a_server_costs_each_prompt_and_one_token_at_its_prices():
    server = Server(base_url="http://localhost:1/v1", prompt_price=1e4, response_price=2e4, budget_tokens=5000)
    lines = judged_by(EndpointJudge(**SERVED, server=server))
    assert lines[1] == "judge, labels 20 responses 480 20 0 0.00"
    assert "judge strict: 480 tokens read, 20 written, no GPU hours here" in lines
    # 480 at a hundredth and 20 at two
    assert "5.20 at the prices of http://localhost:1/v1; server.budget_tokens=5,000" in lines
    written = judged_by(EndpointWrittenJudge(**SERVED, server=server, max_reply_tokens=3))
    assert "6.00 at the prices of http://localhost:1/v1; server.budget_tokens=5,000" in written


def test_a_judge_that_knows_the_answers_costs_nothing():
    lines = ESTIMATE.lines(parts(judge=GoldJudge(name="gold", dataset=None)), [SAMPLED])
    assert any("judge    gold: it knows the answers, nothing is asked" in line for line in lines)


def test_an_annotator_reads_the_reference_beside_each_response():
    prompt = ComparePrompt(template="{question}<response>{first}</response><response>{second}</response>--")
    annotator = YesNoJudge(**LOCAL, prompt=prompt)
    compared = Work("annotator, win rates", "20 responses", "annotator", 10, judged=20)
    lines = [" ".join(line.split()) for line in ESTIMATE.lines(parts(annotator=annotator), [compared])]
    # 44 characters beside question and reference, 6: 25 tokens. 20 × (25 + 10) are read.
    assert lines[1].split()[5:7] == ["700", "20"]
    assert any(line.startswith("annotator strict: 700 tokens read, 20 written") for line in lines)


def test_a_teacher_that_no_gpu_holds_needs_an_endpoint():
    text = " ".join(" ".join(ESTIMATE.lines(parts(teacher_parameters=70e9), [SAMPLED])).split())
    # 140 GB are two GPUs of 72 GB for weights; 12 tokens at 1 and 200 at 2 each.
    assert "needs an endpoint, or 2 GPUs" in text
    assert "An endpoint asks about 412 for these tokens" in text


def test_a_teacher_behind_a_server_costs_its_tokens_and_no_gpu():
    server = Server(base_url="http://localhost:1/v1", prompt_price=1e4, response_price=2e4, budget_tokens=5000)
    prompt = PromptTemplate(template="{question}--")
    teacher = EndpointTeacher(name="far", model="served", prompt=prompt, server=server)
    lines = ESTIMATE.lines(parts(teacher=teacher), [SAMPLED])
    assert lines[1].split()[-4:] == ["12", "200", "0", "0.00"]
    text = "\n".join(lines)
    assert "teacher  far: 12 tokens read, 200 written, no GPU hours here" in text
    # 12 at a hundredth and 200 at two
    assert "4.12 at the prices of http://localhost:1/v1; server.budget_tokens=5,000" in text


def test_recorded_responses_cost_nothing():
    text = "\n".join(ESTIMATE.lines(parts(teacher=StoredTeacher(name="tape", path="absent.jsonl")), [TRAINED]))
    assert "teacher  tape: its responses are recorded, nothing is asked" in text


@pytest.mark.parametrize(
    ("name", "parameters", "weights"),
    [
        ("meta/llama-3.2-1B-it", None, 10**9),
        ("x/galactica-125m", None, 125 * 10**6),
        ("x/y-7b", 8e9, 8 * 10**9),
        ("x/moe-8x7B", None, 56 * 10**9),
    ],
)
def test_the_size_of_an_absent_model_is_declared_or_read_from_its_name(name, parameters, weights):
    model = LocalModel(name="m", name_or_path=name, prompt=PromptTemplate(template="{question}"), parameters=parameters)
    assert model.weights() == weights
    with pytest.raises(ValueError, match=r"its name does not say its size\. Set student\.parameters"):
        dataclasses.replace(model, name_or_path="x/y", parameters=None).weights()


def test_a_model_that_is_here_is_counted(tmp_path):
    folder = tiny_world.random_model(tmp_path).folder
    model = LocalModel(name="m", name_or_path=str(folder), prompt=PromptTemplate(template="{question}"), parameters=7.0)
    assert model.weights() == count_weights(folder)


def test_impossible_assumptions_are_refused_by_their_key():
    with pytest.raises(ValueError, match=r"cost_estimate\.sampling_share=2: must be in \[0, 1\]"):
        dataclasses.replace(ESTIMATE, sampling_share=2)


def test_a_dry_run_loads_no_model_and_leaves_nothing_behind(tmp_path, monkeypatch):
    tiny_world.write_dataset(tmp_path / "data")
    monkeypatch.setattr("rkd.models.loading._load", None)
    absent = [f"{role}.name_or_path=nobody/absent-{size}B" for role, size in (("teacher", 70), ("student", 1))]
    accuracy, seen = run(tmp_path, tmp_path, *absent, "dry_run=true")
    assert accuracy is None
    assert "needs an endpoint" in seen
    assert "rl" in seen
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_the_bill_of_an_evaluation_has_no_training(tmp_path):
    tiny_world.write_dataset(tmp_path / "data")
    absent = [f"{role}.name_or_path=nobody/absent-{size}B" for role, size in (("teacher", 70), ("student", 1))]
    _, seen = run(tmp_path, tmp_path, *absent, "dry_run=true", "evaluate_only=true")
    assert "evaluation, student" in seen
    assert not any(stage in seen for stage in ("first pass", "sft", "rl  "))
