"""The KL coefficient: fixed, or steered by Ziegler et al.'s controller."""

import pytest

from rkd.rl.kl_controller import AdaptiveKL, FixedKL


def test_a_fixed_coefficient_does_not_move():
    controller = FixedKL(0.2)
    controller.update(measured_kl=1e6, episodes=64)
    assert controller.coefficient == 0.2


@pytest.mark.parametrize(
    ("measured_kl", "expected"),
    # β 0.2, target 6, n / horizon = 100 / 1000. Error 0.1 and −0.1: × 1.01, × 0.99; at the target: × 1.
    [(6.6, 0.202), (5.4, 0.198), (6.0, 0.2)],
)
def test_an_adaptive_coefficient_follows_the_error_in_proportion(measured_kl, expected):
    controller = AdaptiveKL(coefficient=0.2, target=6.0, horizon=1000)
    controller.update(measured_kl, episodes=100)
    assert controller.coefficient == pytest.approx(expected)


@pytest.mark.parametrize(("measured_kl", "expected"), [(600.0, 0.204), (-600.0, 0.196)])
def test_one_rollout_moves_an_adaptive_coefficient_by_a_fifth_of_its_share_at_most(measured_kl, expected):
    controller = AdaptiveKL(coefficient=0.2, target=6.0, horizon=1000)
    controller.update(measured_kl, episodes=100)  # error clipped to ±0.2: × (1 ± 0.02)
    assert controller.coefficient == pytest.approx(expected)


def test_a_restored_adaptive_controller_goes_on_where_it_was():
    controller = AdaptiveKL(coefficient=0.2, target=6.0, horizon=1000)
    controller.update(600.0, episodes=100)
    restored = AdaptiveKL(coefficient=0.2, target=6.0, horizon=1000)
    restored.load_state_dict(controller.state_dict())
    restored.update(600.0, episodes=100)
    assert restored.coefficient == pytest.approx(0.2 * 1.02 * 1.02)


def test_a_checkpoint_of_another_fixed_coefficient_is_refused():
    FixedKL(0.2).load_state_dict(FixedKL(0.2).state_dict())
    with pytest.raises(ValueError, match=r"trained with KL state .*0\.1.*coefficient=0\.2"):
        FixedKL(0.2).load_state_dict(FixedKL(0.1).state_dict())


def test_a_negative_fixed_coefficient_is_refused():
    with pytest.raises(ValueError, match=r"coefficient=-0\.2: a negative one rewards leaving"):
        FixedKL(-0.2)


@pytest.mark.parametrize("field", ["coefficient", "target", "horizon"])
def test_an_adaptive_controller_refuses_zeros(field):
    with pytest.raises(ValueError, match="all must be above 0"):
        AdaptiveKL(**({"coefficient": 0.2, "target": 6.0, "horizon": 1000} | {field: 0}))
