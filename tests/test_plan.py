"""The plan: sizes counted by hand, parameters as torch counts them, and a measured time."""

from types import SimpleNamespace

import pytest
import tiny_world

from rkd import plan
from rkd.advantages import GAE
from rkd.evaluation import Evaluation
from rkd.generation import LocalModel
from rkd.kl_control import FixedKL
from rkd.labels import CorrectResponses
from rkd.models import load_causal_lm
from rkd.preferences import Pairs
from rkd.reward_model import NoRewardModel, RewardModel
from rkd.rl import RL, NoRL, Optimisation
from rkd.rollouts import KLPenalty, Rollouts
from rkd.sft import SFT, NoSFT
from rkd.student_samples import StudentSamples
from rkd.teacher import Schedule, TeacherSamples


class FixedData:
    """100 training and 20 validation queries, and a test set of 50."""

    name = "fixed"

    def training_queries(self):
        return tiny_world.queries(0, 100)

    def validation_queries(self):
        return tiny_world.queries(100, 20)

    def test_sets(self):
        return {"test": tiny_world.queries(200, 50)}


def parts(models, **others) -> SimpleNamespace:
    """The parts of a row."""
    rollouts = Rollouts(episodes=100, queries_per_rollout=4, responses_per_query=5, max_response_tokens=20)
    own = {
        "dataset": FixedData(),
        "teacher_samples": TeacherSamples(
            first_pass=Schedule(temperatures=[0, 0.5], samples_per_temperature=3),
            second_pass=Schedule(temperatures=[0.5, 1.0], samples_per_temperature=2),
            max_response_tokens=10,
        ),
        "teaching_set": CorrectResponses(),
        "sft": SFT(learning_rate=1e-3, epochs=2, batch_size=8, max_tokens=64),
        "student_samples": StudentSamples(samples_per_query=8, max_response_tokens=12),
        "pairs": Pairs(max_pairs_per_query=3),
        "reward_model": RewardModel(learning_rate=1e-3, epochs=2, batch_size=8, max_tokens=64),
        "rl": RL(
            rollouts=rollouts,
            optimisation=Optimisation(learning_rate=1e-3, epochs_per_rollout=2),
            kl=KLPenalty(controller=FixedKL(0.1)),
            advantages=GAE(),
            rollouts_between_validations=2,
        ),
        "evaluation": Evaluation(max_response_tokens=30, max_pass_at_k_queries=10),
        "validation_queries": 15,
    }
    return SimpleNamespace(**{**own, **models, **others})


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, LocalModel]:
    made = {}
    for role, hidden in (("teacher", 32), ("student", 16)):
        folder = tmp_path_factory.mktemp(role)
        tiny_world.random_model(folder, hidden=hidden)
        made[role] = LocalModel(name=f"tiny {role}", name_or_path=str(folder), prompt=tiny_world.PROMPT)
    return made


def test_each_stage_counts_what_it_does(models):
    work = {one.stage: one for one in plan.planned_work(parts(models))}
    # First pass: 120 queries × (1 greedy text + 3 samples); second, if all lack consensus: 120 × 4.
    assert (work["teacher, first pass"].sampled, work["teacher, second pass"].sampled) == (480, 480)
    # 100 queries × 6 texts × 2 epochs; two validations of 15 queries.
    assert (work["sft"].trained, work["sft"].sampled) == (1200, 30)
    assert work["student samples"].sampled == 960
    # 300 pairs of two responses, 2 epochs; 60 pairs are ranked after each, which is a forward pass.
    assert work["reward model"].trained == pytest.approx(2 * (2 * 300 + 2 * 60 / 3))
    # 5 rollouts of 20; validations before, after 2 and after 4; 2 epochs and three forward passes.
    assert work["rl"].sampled == 100 + 3 * 15
    assert work["rl"].trained == pytest.approx(100 * (2 + 3 / 3))
    # 50 greedy responses, and 8 samples for 10 queries.
    assert work["evaluation of the teacher"].sampled == 130
    assert work["evaluation of students"].sampled == 3 * 130
    assert work["student samples"].tokens == 960 * 12


def test_a_stage_left_out_is_not_in_the_plan(models):
    none = parts(models, sft=NoSFT(), reward_model=NoRewardModel(), rl=NoRL())
    assert not {"sft", "reward model", "rl"} & {one.stage for one in plan.planned_work(none)}


def test_parameters_are_those_of_the_model(models):
    folder = models["teacher"].checkpoint().folder
    assert plan.parameters(folder) == sum(p.numel() for p in load_causal_lm(folder).parameters())


def test_a_truncated_file_is_named(models, tmp_path):
    whole = models["student"].checkpoint().folder
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"model\.safetensors are truncated or altered.*rkd\.pretrain"):
        plan.parameters(tmp_path)


def test_the_time_is_measured_and_multiplied(models):
    speed = plan.measure(parts(models))
    assert set(speed.sampled) == {"teacher", "student"}
    assert min(speed.trained, *speed.sampled.values()) > 0
    work = plan.Work("x", "", "student", 10, sampled=200, trained=30)
    assert speed.seconds(work) == pytest.approx(200 * speed.sampled["student"] + 30 * speed.trained)


def test_a_large_model_is_not_loaded_for_an_estimate(models):
    assert plan.measure(parts(models), largest=1000) is None


def test_the_lines_say_sizes_and_times(models):
    work = plan.planned_work(parts(models))
    speed = plan.Speed({"teacher": 1.0, "student": 0.5}, 2.0)
    lines = plan.plan_lines(work, speed)
    (samples,) = (line for line in lines if "student samples" in line)
    # 960 samples at half a second are eight minutes, of 12 tokens each 11,520 tokens.
    assert "120 queries × 8 samples" in samples
    assert samples.endswith("8 min")
    assert "11.5 k" in samples
    assert all(line.endswith("–") for line in plan.plan_lines(work, None)[1:])
    # Certain: 480 + 130 responses of the teacher, 30 + 960 + 145 + 390 of the student at half a second, and
    # 1200 + 1280 + 300 trained on at two seconds: 6932.5 s. The second pass is another 480 s.
    assert lines[-1].endswith("about 1.9 h to 2.1 h")
    header = "\n".join(plan.describe(parts(models), "Ours", 3))
    assert "Ours on fixed, seed 3" in header
    assert "100 training, 20 validation; tests: test 50" in header
    assert "teacher tiny teacher, " in header
