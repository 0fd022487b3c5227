"""What of a training's history goes into the result."""

from rkd.pipeline.train import condensed

SHOWN = {"reward": 0.5, "kl": 0.1, "response_tokens": 30.0, "repetition": 0.25}


def rollout(number: int) -> dict[str, float]:
    return {"episodes": 8.0 * number, **SHOWN, "policy_loss": 1.0}


def test_thousands_of_rollouts_are_thinned_and_every_validation_is_kept():
    history = [{"episodes": 0.0, "validation_accuracy": 0.25}]
    for number in range(1, 1001):
        history.append(rollout(number))
        if number % 100 == 0:
            history.append({"episodes": 8.0 * number, "validation_accuracy": number / 1000})
    rows = condensed(history)
    # Rollouts 1, 26, 51, …, 976; the start and each hundredth one are validated, and none of these is among them.
    assert sum("reward" in row for row in rows) == 40
    assert [row["episodes"] for row in rows if "validation_accuracy" in row] == [800.0 * n for n in range(11)]
    assert [row["episodes"] for row in rows] == sorted(row["episodes"] for row in rows)
    assert rows[1] == {"episodes": 8.0, **SHOWN}


def test_a_rollout_and_the_validation_behind_it_share_a_row():
    rows = condensed([rollout(1), {"episodes": 8.0, "validation_accuracy": 0.5}])
    assert rows == [{"episodes": 8.0, **SHOWN, "validation_accuracy": 0.5}]


def test_a_training_without_rollouts_keeps_its_validations_as_they_are():
    rows = [{"step": 2, "share": 0.5, "accuracy": 0.25}, {"step": 4, "share": 1.0, "accuracy": 0.5}]
    assert condensed(rows) == rows
