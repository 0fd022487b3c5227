"""The page of a report shows what a real job left behind."""

from rkd.reporting.page.blocks import Blocks
from rkd.reporting.page.contents import overview
from tests.reporting.page.test_blocks import unpacked
from tests.support.jobs import only_result


def test_a_real_job_shows_all_that_it_kept(finished):
    made, folder = only_result(finished[0])
    blocks = Blocks()
    (job,) = overview([folder], blocks)["jobs"]
    assert [model["role"] for model in job["models"]] == [model.role for model in made.models]
    for model in job["models"]:
        test = model["tests"]["svamp"]
        answers, asked = unpacked(blocks, test["answers"]), unpacked(blocks, test["questions"])
        assert len(asked["questions"]) == len(asked["gold_answers"]) == 12
        said = [text.removeprefix("The answer is ").removesuffix(".") for text in answers["responses"]]
        assert said == answers["answers"]
    metrics = unpacked(blocks, job["curves"])["metrics"]
    assert {"rl/reward", "rl/entropy", "sft/validation/accuracy", "reward_model/validation/auc"} <= set(metrics)
    assert metrics["rl/validation_accuracy"][0] == [0, 32, 64]
    assert {"reward", "learned", "check"} <= set(unpacked(blocks, job["rollouts"])[0]["numbers"])
