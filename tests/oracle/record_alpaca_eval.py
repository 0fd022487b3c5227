"""Record length-controlled win rates of alpaca-eval on made annotations, an oracle for `rkd.evaluation.length_control`.

    python -m venv .venv-alpaca && .venv-alpaca/bin/pip install -r tests/oracle/requirements-alpaca-eval.txt
    .venv-alpaca/bin/python tests/oracle/record_alpaca_eval.py

Writes `alpaca_eval.json` beside this file: the difficulties of 805 instructions, annotations of the baseline's own
concise and verbose outputs, and of each model its annotations with the win rate, the length-controlled win rate and its
standard error, in percent. All annotations are drawn here. The package would download its own annotations of the
baseline; it gets ours in their place.
"""

import json
import math
import tempfile
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pandas as pd
from alpaca_eval.metrics import glm_winrate

PACKAGES = ("alpaca-eval", "scikit-learn", "numpy", "scipy", "pandas", "patsy")
INSTRUCTIONS = 805
# Of each model: instructions, coefficients of length, difficulty and model, how its lengths follow from the
# baseline's, and whether the judge is sure (0 or 1) or gives shares.
MODELS: dict[str, tuple[int, tuple[float, float, float], str, str]] = {
    "weak_and_short": (805, (-1.8, 0.8, -3.5), "short", "sure"),
    "even": (805, (-1.2, 0.6, 0.0), "alike", "shares"),
    "strong_and_long": (805, (-1.0, 0.6, 1.5), "long", "shares"),
    "long_without_merit": (400, (-2.5, 0.5, -0.5), "long", "sure"),
    "few_very_long": (400, (-1.5, 0.7, -1.0), "skewed", "shares"),
    "longer_by_about_the_same": (400, (-1.2, 0.6, 0.5), "shifted", "sure"),
    "rows_missing": (300, (-1.5, 0.7, 0.5), "mixed", "shares"),
    "length_does_not_matter": (300, (0.0, 0.4, 0.3), "mixed", "sure"),
    "draws": (300, (-1.0, 0.5, 0.2), "mixed", "draws"),
    "always_wins": (200, (0.0, 0.0, 99.0), "mixed", "sure"),
    "always_loses": (200, (0.0, 0.0, -99.0), "short", "sure"),
}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def length_terms(differences: list[float]) -> list[float]:
    """The argument of tanh: differences over their standard deviation."""
    mean = math.fsum(differences) / len(differences)
    spread = math.sqrt(math.fsum((one - mean) ** 2 for one in differences) / (len(differences) - 1))
    return [one / spread for one in differences]


def model_length(kind: str, baseline: int, random: Random) -> int:
    length = {
        "short": lambda: baseline * random.uniform(0.1, 0.5),
        "alike": lambda: baseline * random.uniform(0.8, 1.25),
        "long": lambda: baseline * random.uniform(1.2, 4),
        "skewed": lambda: 60_000 if random.random() < 0.01 else baseline * random.uniform(0.7, 1.2),
        "shifted": lambda: baseline + 1000 + random.uniform(-3, 3),
        "mixed": lambda: baseline * math.exp(random.gauss(0, 0.8)),
    }[kind]()
    return int(length)


def won(probability: float, judge: str, random: Random) -> float:
    """The preference for the model, in [0, 1] with three decimals."""
    if judge == "draws" and random.random() < 0.3:
        return 0.5
    if judge == "shares":
        return round(random.betavariate(0.7 * probability + 1e-3, 0.7 * (1 - probability) + 1e-3), 3)
    return float(random.random() < probability)


def drawn_baseline(difficulties: list[float], random: Random) -> dict[str, list[float]]:
    """The baseline's own annotations: lengths over their spread, and who won; concise first, then verbose."""
    terms: list[float] = []
    for mean in (900, -350):
        terms += length_terms([random.gauss(mean, 600) for _ in difficulties])
    terms = [round(term, 3) for term in terms]
    probabilities = [
        sigmoid(-1.8 * math.tanh(term) + 0.75 * own) for term, own in zip(terms, 2 * difficulties, strict=True)
    ]
    return {"std_delta_len": terms, "preference": [won(one, "shares", random) for one in probabilities]}


def drawn_model(name: str, difficulties: list[float], random: Random) -> dict[str, list[float]]:
    """The annotations of one model, in columns."""
    n, (length, difficulty, model), kind, judge = MODELS[name]
    index = sorted(random.sample(range(INSTRUCTIONS), n))
    len_1 = [int(random.lognormvariate(7.5, 0.5)) + 1 for _ in index]
    len_2 = [model_length(kind, own, random) for own in len_1]
    terms = length_terms([a - b for a, b in zip(len_1, len_2, strict=True)])
    preference = []
    for one, term in zip(index, terms, strict=True):
        logit = length * math.tanh(term) + difficulty * difficulties[one] + model
        preference.append(round(1 + won(sigmoid(logit), judge, random), 3))
    return {"index": index, "len_1": len_1, "len_2": len_2, "preference": preference}


def recorded(name: str, annotations: dict[str, list[float]], gamed: Path) -> dict[str, float]:
    """The rates of the package, whose download is answered with the file `gamed`."""
    frame = pd.DataFrame(annotations)
    frame["generator_1"], frame["generator_2"] = "baseline", name
    for which in "12":
        frame[f"output_{which}"] = [" " * characters for characters in frame[f"len_{which}"]]
    with mock.patch.object(glm_winrate, "hf_hub_download", return_value=str(gamed)):
        rates = glm_winrate.get_length_controlled_winrate(
            frame, save_weights_dir=None, is_warn_extreme_changes=False, is_add_glm_preference_inplace=False
        )
    names = ("win_rate", "length_controlled_winrate", "lc_standard_error")
    return {own: round(float(rates[own]), 6) for own in names}


def main() -> None:
    """Write `alpaca_eval.json`."""
    random = Random(0)
    difficulties = [round(random.gauss(0, 1.5), 3) for _ in range(INSTRUCTIONS)]
    baseline = drawn_baseline(difficulties, random)
    frame = pd.DataFrame(baseline).assign(
        index=2 * list(range(INSTRUCTIONS)),
        instruction_difficulty=2 * difficulties,
        not_gamed_baseline=False,
        model="baseline",
    )
    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        gamed = Path(folder) / "df_gamed.csv"
        frame.to_csv(gamed, index=False)
        for name in MODELS:
            annotations = drawn_model(name, difficulties, random)
            models[name] = {"annotations": annotations, "rates": recorded(name, annotations, gamed)}
            print(name, models[name]["rates"])
    fixture = {
        "versions": {name: version(name) for name in PACKAGES},
        "difficulties": difficulties,
        "baseline": baseline,
        "models": models,
    }
    text = json.dumps(fixture, separators=(",", ":"))
    for key in ("difficulties", "baseline", "models", *MODELS):
        text = text.replace(f'"{key}":', f'\n"{key}":')
    Path(__file__).with_name("alpaca_eval.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
