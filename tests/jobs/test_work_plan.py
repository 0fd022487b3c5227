"""The plan: sizes counted by hand, parameters as torch counts them, and a measured time."""

import dataclasses
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import Example
from rkd.evaluation.accuracy import Evaluation
from rkd.evaluation.best_of_n import BestOfN
from rkd.generation.engines import HFEngine, LocalEngine
from rkd.generation.local import LocalModel
from rkd.jobs import time_estimate as speed
from rkd.jobs import work_plan as plan
from rkd.judges.base import NoJudge
from rkd.judges.gold import GoldJudge
from rkd.judges.single_token import YesNoJudge
from rkd.models.loading import count_weights, load_causal_lm
from rkd.pipeline import experiment as stages
from rkd.protocols import Sampling
from rkd.records import Response
from rkd.rl.advantages import GAE
from rkd.rl.kl_controller import FixedKL
from rkd.rl.reward_mix import Check, Judged, Learned, RewardMix
from rkd.rl.settings import KLPenalty, Optimisation, Rollouts
from rkd.rl.stage import RL, NoRL
from rkd.stages.arithmetic import NoArithmetic
from rkd.stages.dpo import DPO, NoDPO
from rkd.stages.labels import AllResponses, GoldLabels, MajorityVote, RubricGrades
from rkd.stages.preferences import Pairs, ValidationPairs
from rkd.stages.rejection_sampling import RejectionSampling, Rounds
from rkd.stages.reward_model import NoRewardModel, RewardModelTraining
from rkd.stages.sft import SFT, NoSFT
from rkd.stages.student_samples import StudentSamples
from rkd.stages.teacher import RecordedSamples, Schedule, TeacherSamples
from tests.support import tiny_world

EXPECTED = plan.Expected(
    second_pass=0.25, labelled=0.8, first_pass_texts=3.0, voted_texts=2.0, balanced=0.5, pairs=0.5, validation_pairs=1.5
)


class FixedData:
    """100 training and 20 validation queries, and a test set of 50."""

    name = "fixed"
    repeated_questions = 0
    is_verifiable = True
    dropped_unlabelled: ClassVar = {}
    transductive = False

    def training_queries(self, *, labelled=False):
        queries = tiny_world.queries(0, 100)
        return queries if labelled else [dataclasses.replace(query, gold_answer=None) for query in queries]

    def unlabelled_queries(self):
        return []

    def validation_queries(self):
        return tiny_world.queries(100, 20)

    def test_sets(self):
        return {"test": tiny_world.queries(200, 50)}


TUNING = SFT(learning_rate=1e-3, epochs=2, batch_size=8, max_tokens=64)


def parts(models, **others) -> SimpleNamespace:
    """The parts of a row."""
    rollouts = Rollouts(episodes=100, queries_per_rollout=4, responses_per_query=5, max_response_tokens=20)
    own = {
        "row": "Ours",
        "seed": 3,
        "few_shot": False,
        "zero_shot": tiny_world.PROMPT,
        "dataset": FixedData(),
        "teacher_samples": TeacherSamples(
            first_pass=Schedule(temperatures=[0, 0.5], samples_per_temperature=3),
            second_pass=Schedule(temperatures=[0.5, 1.0], samples_per_temperature=2),
            max_response_tokens=10,
        ),
        "sft": TUNING,
        "student_samples": StudentSamples(samples_per_query=8, max_response_tokens=12),
        "pairs": Pairs(max_pairs_per_query=3),
        "validation_pairs": ValidationPairs(max_pairs_per_kind=1),
        "dpo": NoDPO(),
        "judge": NoJudge(),
        "arithmetic": NoArithmetic(),
        "labels": MajorityVote(),
        "reward_model": RewardModelTraining(learning_rate=1e-3, epochs=2, batch_size=8, max_tokens=64),
        "reward_mix": RewardMix(lambda_=0.0, mu=0.0, rho=1.0, learned=Learned(queries="balanced", check=Check())),
        "rl": RL(
            rollouts=rollouts,
            optimisation=Optimisation(learning_rate=1e-3, epochs_per_rollout=2),
            kl=KLPenalty(controller=FixedKL(0.1)),
            advantages=GAE(),
            rollouts_between_validations=2,
        ),
        "evaluation": Evaluation(max_response_tokens=30, max_pass_at_k_queries=10),
        "validation_queries": 15,
        "generation": LocalEngine(),
    }
    settings = {name: others.pop(name) for name in ("annotator", "inference") if name in others}
    own["evaluation"] = dataclasses.replace(own["evaluation"], **settings)
    return SimpleNamespace(**{**own, **models, **others})


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, LocalModel]:
    made = {}
    shown = dataclasses.replace(tiny_world.PROMPT, examples=[Example("say one", "The answer is 1.")])
    for role, hidden, prompt in (("teacher", 32, tiny_world.PROMPT), ("student", 16, shown)):
        folder = tmp_path_factory.mktemp(role)
        tiny_world.random_model(folder, hidden=hidden)
        made[role] = LocalModel(name=f"tiny {role}", name_or_path=str(folder), prompt=prompt)
    return made


def work_of(parts) -> dict[str, plan.Work]:
    return {one.stage: one for one in plan.planned_work(parts, EXPECTED)}


def test_rejection_sampling_counts_samples_and_trainings_of_all_rounds(models):
    rounds = Rounds(rounds=2, episodes=24, responses_per_query=3, max_response_tokens=16, temperature=0.7)
    work = work_of(parts(models, rl=RejectionSampling(rollouts=rounds, training=TUNING)))
    assert work["rejection samples"].sampled == 24
    # 160 examples of the teacher in both rounds, and at most 12 and 24 own ones; 2 epochs.
    assert work["rejection"].trained == 2 * (160 + 12 + 160 + 24)
    assert "rl" not in work


def test_each_stage_counts_what_it_does(models):
    work = work_of(parts(models))
    # First pass: 120 queries, 1 greedy text + 3 samples; the second: a quarter of them.
    assert (work["teacher, first pass"].queries, work["teacher, first pass"].sampled) == (120, 480)
    assert (work["teacher, second pass"].queries, work["teacher, second pass"].sampled) == (30, 120)
    # 80 of 100 queries have a label, and 2 texts with it: 160, twice. Two validations, of 15 of the 16 that have one.
    assert (work["sft"].trained, work["sft"].sampled) == (320, 30)
    assert (work["student samples"].queries, work["student samples"].sampled) == (96, 768)
    # Half of 80 labelled queries balanced, half of 3 pairs each: 60 pairs of two responses, 2 epochs. Of 8 balanced
    # queries, 12 pairs for validation are ranked after each, which is a forward pass.
    assert work["reward model"].trained == pytest.approx(2 * 2 * (60 + 12 / 3))
    # 5 rollouts of 4 × 5; validations before, after 2 and after 4; 2 epochs and three forward passes.
    assert (work["rl"].queries, work["rl"].sampled) == (5 * 4 + 3 * 15, 100 + 3 * 15)
    assert work["rl"].trained == pytest.approx(100 * (2 + 3 / 3))
    assert [work[stage].group_size for stage in ("sft", "reward model", "rl")] == [1, 2, 5]
    # 50 greedy responses, and 8 samples for 10 queries; the student zero-shot, SFT and Ours cost alike.
    evaluated = {model: work[f"evaluation, {model}"] for model in ("teacher", "student few-shot", "student")}
    assert [one.sampled for one in evaluated.values()] == [130, 130, 3 * 130]
    assert [one.queries for one in evaluated.values()] == [60, 60, 3 * 60]
    assert work["student samples"].tokens == 768 * 12


def test_recorded_responses_are_voted_on_and_counted(models):
    queries = FixedData().training_queries()
    # Three quarters of the queries have three equal texts, which are one example; the others have no answer.
    texts = [["The answer is 1."] * 3 if at % 4 else ["?", "??", "???"] for at in range(100)]
    recorded = [
        [Response(query.id, "tape", place, text, True) for place, text in enumerate(own)]
        for query, own in zip(queries, texts, strict=True)
    ]
    teacher = SimpleNamespace(name="tape", is_recorded=True, prompt=None, recorded=lambda _: recorded)
    work = work_of(parts(models | {"teacher": teacher}, teacher_samples=RecordedSamples()))
    assert (work["sft"].trained, work["sft"].max_response_tokens) == (2 * 75, 4)
    assert work["student samples"].queries == 0.75 * 120


def test_a_dry_run_of_recorded_responses_reads_gold_answers_where_the_labels_do(models):
    recorded = [[Response(query.id, "tape", 0, "The answer is 1.", True)] for query in FixedData().training_queries()]
    teacher = SimpleNamespace(name="tape", is_recorded=True, prompt=None, recorded=lambda _: recorded)
    own = parts(models | {"teacher": teacher}, teacher_samples=RecordedSamples(), labels=GoldLabels())
    assert work_of(own)["sft"].trained == 2 * 50  # every other answer is 1


def judge_of(models, **words) -> YesNoJudge:
    folder = str(models["teacher"].source().folder)
    return YesNoJudge(name="judge", name_or_path=folder, prompt=JudgePrompt(**words))


def test_a_judge_reads_the_first_pass_and_attacks_and_its_share_of_the_rollouts(models):
    mix = {"mu": 0.5, "judge": Judged(queries="all")}
    of_loss, of_reward = (RewardMix(lambda_=0.5, rho=0.0, level=level, **mix) for level in ("loss", "reward"))
    work = work_of(parts(models, judge=judge_of(models), reward_mix=of_loss))
    # One greedy text and 3 samples for 100 training queries, ten kinds of attack on each.
    assert (work["judge, labels"].judged, work["judge, labels"].group_size) == (400 + 1000, 4)
    assert work["judge, labels"].tokens == 1400 * 10
    # 5 rollouts, two of four queries for each term, five responses each; one mixed loss may ask about all of them.
    assert (work["judge, rl"].judged, work["judge, rl"].max_response_tokens) == (50, 20)
    assert work_of(parts(models, judge=judge_of(models), reward_mix=of_reward))["judge, rl"].judged == 100
    assert "judge, rl" not in work_of(parts(models, judge=judge_of(models)))  # its verdicts train nobody
    assert "judge, labels" not in work_of(parts(models, judge=GoldJudge(name="gold", dataset=None)))


def test_an_open_ended_row_grades_what_it_samples_and_compares_what_it_tests(models):
    data = FixedData()
    data.is_verifiable = False
    own = parts(models, dataset=data, labels=RubricGrades(), judge=judge_of(models), annotator=judge_of(models))
    work = work_of(own)
    assert "teacher, second pass" not in work
    assert "judge, labels" not in work
    # One greedy text and 3 samples for 120 queries; the samples of the 80 % that are taught; greedy validations.
    samples = own.student_samples.samples_per_query
    validations = work["sft"].asked[0][0] + work["rl"].asked[1][0]
    assert work["judge, grades"].judged == 120 * 4 + 0.8 * 120 * samples + validations
    # Each line of the table answers 50 queries, and each answer is compared twice.
    lines = len(stages.table_lines(own))
    assert work["annotator, win rates"].judged == 2 * 50 * lines
    assert work["evaluation, student"].sampled % 50 == 0  # greedy ones alone


def test_the_time_of_a_verdict_is_measured_and_multiplied(models):
    words = {"yes_word": " 1", "no_word": " 2"}  # the tiny tokenizer has no Yes
    own = parts(models, judge=judge_of(models, **words))
    measured = speed.measure(own, plan.planned_work(own, EXPECTED))
    assert measured.judging[plan.JUDGE] > 0
    work = plan.Work("x", "", plan.JUDGE, 10, judged=30)
    assert speed.Speed({}, {}, {plan.JUDGE: 0.5}).seconds(work) == 15.0
    assert speed.Speed({}, {}).seconds(work) is None
    assert speed.plan_lines([work], speed.Speed({}, {}))[1].endswith("–")


def test_unfiltered_sft_data_are_all_texts_of_the_first_pass_up_to_its_limit(models):
    for limit, trained in ((None, 300), (1, 100)):
        sft = dataclasses.replace(TUNING, data=AllResponses(responses_per_query=limit))
        assert work_of(parts(models, sft=sft))["sft"].trained == 2 * trained


def test_direct_preference_optimisation_reads_the_pairs_once_more_and_validates_its_start(models):
    dpo = DPO(learning_rate=1e-3, epochs=2, batch_size=8, max_tokens=64, validations_per_epoch=3)
    work = work_of(parts(models, dpo=dpo, reward_model=NoRewardModel(), rl=NoRL()))
    # 60 pairs of two responses, 2 epochs and a forward pass; 1 + 2 · 3 validations of 15 queries.
    assert work["dpo"].trained == pytest.approx(2 * 60 * (2 + 1 / 3))
    assert (work["dpo"].sampled, work["dpo"].group_size) == (7 * 15, 2)
    # No reward model is validated: of 100 training queries, 80 have a label.
    assert work["student samples"].queries == 80
    # Zero-shot, SFT, DPO.
    assert work["evaluation, student"].sampled == 3 * 130


def test_the_best_of_n_is_drawn_and_read_by_the_reward_model(models):
    work = work_of(parts(models, rl=NoRL(), inference=BestOfN(samples_per_query=4)))
    assert (work["evaluation, best of 4"].queries, work["evaluation, best of 4"].sampled) == (50, 200)
    assert work["evaluation, best of 4"].trained == pytest.approx(200 / 3)
    assert work["evaluation, student"].sampled == 2 * 130  # zero-shot and SFT, greedily


def test_a_stage_left_out_is_not_in_the_plan(models):
    work = work_of(parts(models, reward_model=NoRewardModel(), rl=NoRL()))
    assert not {"student samples", "reward model", "rl"} & set(work)
    assert work["evaluation, student"].sampled == 2 * 130  # zero-shot, and the row's own: SFT has no line beside it
    untrained = work_of(parts(models, sft=NoSFT(), reward_model=NoRewardModel(), rl=NoRL()))
    assert not any(stage == "sft" or "pass" in stage for stage in untrained)


def test_parameters_are_those_of_the_model(models):
    folder = models["teacher"].source().folder
    assert count_weights(folder) == sum(p.numel() for p in load_causal_lm(folder).parameters())


def test_a_truncated_file_is_named(models, tmp_path):
    whole = models["student"].source().folder
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"model\.safetensors are truncated or altered.*rkd pretrain"):
        count_weights(tmp_path)


def test_the_time_is_measured_and_multiplied(models):
    own = parts(models)
    measured = speed.measure(own, plan.planned_work(own, EXPECTED))
    assert set(measured.sampling) == {"teacher", "student few-shot", "student"}
    assert set(measured.training) == {1, 2, 5}
    assert min(*measured.training.values(), *(cost.query + cost.response for cost in measured.sampling.values())) > 0
    costs = {"student": speed.SamplingCost(query=2.0, response=0.5)}
    work = plan.Work("x", "", "student", 10, [(10, Sampling(1.0, 20, 10))], trained=30, group_size=4)
    assert speed.Speed(costs, {4: 3.0}).seconds(work) == 10 * 2.0 + 200 * 0.5 + 30 * 3.0


def test_no_response_of_a_measured_group_is_another_again():
    """Equal ones would be read once, and a training step seem as fast as one with fewer responses."""
    prompts, responses = [[5], [6], [7], [8]], [[10, 1], [11, 1], [12, 1], [13, 1]]
    batch = speed._batch(prompts, responses, 2)
    assert batch.rows() == [[5, 10, 1], [5, 11, 1], [6, 12, 1], [6, 13, 1]]


def test_a_query_and_a_response_are_told_apart_by_two_measurements(monkeypatch):
    """One response takes 3 s a query and four take 6 s: 2 s for the query, 1 s for each response."""
    monkeypatch.setattr(speed, "_timed", lambda work: work())
    per_query = {1: 3.0, 4: 6.0}

    @dataclasses.dataclass(frozen=True)
    class Clock:
        model: object = torch.nn.Linear(1, 1)
        batch_responses: int | None = None

        def generate(self, queries, sampling, _):
            return len(queries) * per_query[sampling.samples_per_query]

    monkeypatch.setattr(speed, "worker_count", lambda _: 2)
    cost = speed._sampling_cost(Clock(), tiny_world.queries(0, 600), Sampling(0.0, 1, 9), Sampling(1.0, 4, 9))
    assert (cost.query, cost.response) == (2.0, 1.0)


def test_a_large_model_is_not_loaded_for_an_estimate(models):
    assert speed.measure(parts(models), [], largest=1000) is None


def test_another_engine_than_the_measured_one_gets_no_estimate(models):
    assert speed.measure(parts(models, generation=HFEngine()), []) is None


def test_the_lines_say_sizes_and_times(models):
    work = plan.planned_work(parts(models), EXPECTED)
    costs = {"teacher": (0.5, 0.75), "student": (0.25, 0.5), "student few-shot": (1.0, 0.5)}
    own_speed = speed.Speed(
        {model: speed.SamplingCost(*cost) for model, cost in costs.items()}, {1: 2.0, 2: 1.0, 5: 4.0}
    )
    lines = speed.plan_lines(work, own_speed)
    (samples,) = (line for line in lines if "student samples" in line)
    # 96 prompts at a quarter and 768 samples at half a second are 408 s, of at most 12 tokens each 9,216 tokens.
    assert "96 queries × 8 samples" in samples
    assert samples.endswith("7 min")
    assert "9.22 k" in samples
    assert all(line.endswith("–") for line in speed.plan_lines(work, None)[1:])
    # Teacher: 210 queries, 730 responses: 652.5 s; few-shot: 60 and 130: 125 s; student: 30 + 96 + 65 + 180 queries,
    # 30 + 768 + 145 + 390 responses: 759.25 s; trained on 320, 256 and 300: 2,096 s. 3,632.75 s in all.
    assert lines[-1].endswith("61 min")
    header = "\n".join(plan.describe(parts(models)))
    assert "Ours on fixed, seed 3" in header
    assert "100 training, 20 validation; tests: test 50" in header
    assert "teacher tiny teacher, " in header


class PartlyLabelledData(FixedData):
    """1,200 unlabelled queries beside the labelled ones, after five were dropped."""

    dropped_unlabelled: ClassVar = {"training": 3, "test": 2}

    def unlabelled_queries(self):
        return tiny_world.queries(300, 1200)


def test_unlabelled_queries_are_told_with_what_was_dropped(models):
    (line,) = (line for line in plan.describe(parts(models, dataset=PartlyLabelledData())) if "queries" in line)
    assert "100 training, 1,200 unlabelled (dropped: 3 training, 2 test), 20 val" in line


def test_a_transductive_dataset_says_so(models):
    dataset = PartlyLabelledData()
    dataset.transductive = True
    (line,) = (line for line in plan.describe(parts(models, dataset=dataset)) if "queries" in line)
    assert "; transductive: test questions may be among them), 20 validation" in line
