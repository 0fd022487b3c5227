"""What curves are drawn from."""

from rkd.reporting.plot_style import over_seeds


def test_seeds_meet_at_the_kth_measurement_wherever_each_made_it():
    first = [{"share": 0.24, "auc": 0.5}, {"share": 0.5, "loss": 1.0}, {"share": 0.76, "auc": 0.75}]
    second = [{"share": 0.26, "auc": 0.25}, {"share": 0.74, "auc": 0.5}, {"share": 1.0, "auc": 1.0}]
    assert over_seeds([first, second], "share", "auc", factor=100) == [
        (0.25, [50.0, 25.0]),
        (0.75, [75.0, 50.0]),
        (1.0, [100.0]),  # the first seed has stopped
    ]


def test_nothing_measured_draws_nothing():
    assert over_seeds([], "share", "auc") == over_seeds([[{"share": 1.0}]], "share", "auc") == []
