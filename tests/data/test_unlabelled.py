"""Unlabelled queries: training queries left without a label, and an augmentation without answers."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from rkd.data.datasets import Data
from rkd.data.jsonl import question_key
from rkd.judges.gold import GoldJudge
from rkd.pipeline.pipeline import build_stages
from rkd.records import Query, Response

CONF = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True)
class Numbers:
    """Questions about the numbers of a range, each with its gold answer."""

    first: int
    count: int
    name: str = "sums"

    def queries(self):
        return [
            Query(f"{self.name}-{n}", self.name, f"What is {n} + 1?", str(n + 1))
            for n in range(self.first, self.first + self.count)
        ]


def data_of(training=100, **options):
    """`training` labelled questions from 0 on, 10 of validation from 1,000 on, and a test set of 20 from 2,000 on."""
    own = {"validation": Numbers(1000, 10), "tests": {"sums": Numbers(2000, 20)}}
    return Data(name="sums", training=Numbers(0, training), **own | options)


def questions(queries):
    return {query.question for query in queries}


def test_a_judge_that_knows_the_gold_answers_knows_those_of_unlabelled_queries():
    data = data_of(labelled_fraction=0.1, unlabelled=Numbers(500, 20))
    judge = GoldJudge(name="gold", dataset=data).open()
    queries = [*data.training_queries()[:1], *data.unlabelled_queries()[-2:], *data.validation_queries()[:1]]
    assert all(query.gold_answer is None for query in queries)
    answers = [int(query.id.removeprefix("sums-")) + 1 for query in queries]
    answers[1] += 1
    texts = [f"The answer is {answer}." for answer in answers]
    said = [Response(query.id, "tests", 0, text, True) for query, text in zip(queries, texts, strict=True)]
    assert judge.judge(queries, said) == [1.0, 0.0, 1.0, 1.0]


def test_a_gold_judge_is_another_one_where_an_answer_is():
    one = GoldJudge(name="gold", dataset=data_of()).content()
    assert one == GoldJudge(name="other", dataset=data_of()).content()
    assert one != GoldJudge(name="gold", dataset=data_of(labelled_fraction=0.5, unlabelled=Numbers(500, 1))).content()


def test_a_gold_judge_without_all_answers_is_refused():
    @dataclass(frozen=True)
    class Unanswered(Numbers):
        def queries(self):
            return [replace(query, gold_answer=None) for query in super().queries()]

    with pytest.raises(ValueError, match=r"20 of dataset=sums have none.*judge=mini_judge"):
        GoldJudge(name="gold", dataset=data_of(unlabelled=Unanswered(500, 20))).content()


def test_without_a_fraction_and_without_an_augmentation_every_training_query_is_labelled():
    data = data_of()
    assert (data.training_queries(labelled=True), data.unlabelled_queries()) == (Numbers(0, 100).queries(), [])
    assert data.dropped_unlabelled == {}
    assert set(data.ids()) == {"training", "validation", "tests"}


def test_what_the_labelled_fraction_leaves_is_unlabelled_and_both_keep_the_order():
    data = data_of(labelled_fraction=0.3)
    labelled, unlabelled = data.training_queries(labelled=True), data.unlabelled_queries()
    assert (len(labelled), len(unlabelled)) == (30, 70)
    every = sorted([*labelled, *unlabelled], key=lambda query: int(query.id.removeprefix("sums-")))
    assert [query.id for query in every] == [query.id for query in Numbers(0, 100).queries()]
    for own in (labelled, unlabelled):
        numbers = [int(query.id.removeprefix("sums-")) for query in own]
        assert numbers == sorted(numbers)
    assert labelled[0].gold_answer == str(int(labelled[0].id.removeprefix("sums-")) + 1)


def test_no_unlabelled_query_has_a_gold_answer():
    data = data_of(labelled_fraction=0.5, unlabelled=Numbers(100, 50))
    assert {query.gold_answer for query in data.training_queries()} == {None}
    assert {query.gold_answer for query in data.unlabelled_queries()} == {None}
    assert None not in {query.gold_answer for query in data.training_queries(labelled=True)}


def test_a_smaller_labelled_share_lies_within_every_larger_one_and_its_seed_draws_it():
    shares = [questions(data_of(labelled_fraction=f).training_queries()) for f in (0.1, 0.3, 0.8, 1.0)]
    assert shares[0] < shares[1] < shares[2] < shares[3]
    other = questions(data_of(labelled_fraction=0.3, split_seed=1).training_queries())
    assert (len(other), other == shares[1]) == (30, False)
    assert data_of(labelled_fraction=0.3).training_queries() == data_of(labelled_fraction=0.3).training_queries()


def test_the_share_is_one_of_what_the_limit_leaves():
    data = data_of(labelled_fraction=0.5, max_training_queries=40)
    assert (len(data.training_queries()), len(data.unlabelled_queries())) == (20, 20)
    assert questions([*data.training_queries(), *data.unlabelled_queries()]) == questions(
        data_of(max_training_queries=40).training_queries()
    )


def test_a_share_of_less_than_one_query_is_one():
    assert len(data_of(labelled_fraction=0.001).training_queries()) == 1


def test_the_augmentation_loses_questions_that_other_splits_ask_and_counts_them():
    # From 95 on: 5 training questions, and the rest of 1,500 numbers; of those 10 are validation and 20 are test.
    data = data_of(unlabelled=Numbers(95, 2000, name="more"))
    kept = questions(data.unlabelled_queries())
    for other in (data.training_queries(), data.validation_queries(), data.test_sets()["sums"]):
        assert not kept & questions(other)
    assert data.dropped_unlabelled == {"training": 5, "validation": 10, "test": 20}
    assert len(kept) == 1965


def test_a_question_is_the_same_whatever_its_case_and_white_space():
    class Shouted:
        def queries(self):
            return [Query(f"a-{n}", "a", f"WHAT  is {n}\n+ 1? ") for n in (2000, 5000)]

    data = data_of(unlabelled=Shouted())
    assert [query.id for query in data.unlabelled_queries()] == ["a-5000"]


def test_a_question_that_two_unlabelled_sources_ask_stays_once():
    data = data_of(labelled_fraction=0.5, unlabelled=Numbers(50, 100, name="more"))
    # The questions 50 to 99 are training questions: those with a label are dropped as such, the others as repeated.
    labelled = sum(int(query.id.removeprefix("sums-")) >= 50 for query in data.training_queries())
    assert data.dropped_unlabelled == {"training": labelled, "repeated": 50 - labelled}
    assert len(data.unlabelled_queries()) == len(questions(data.unlabelled_queries())) == 100


def test_what_is_dropped_does_not_depend_on_the_limits_of_test_and_validation():
    options = {"unlabelled": Numbers(900, 1200, name="more")}
    limited = data_of(max_test_queries=2, max_validation_queries=3, **options)
    assert limited.unlabelled_queries() == data_of(**options).unlabelled_queries()


def test_a_test_set_drawn_from_the_training_rows_is_kept_out_too():
    data = data_of(unlabelled=Numbers(0, 120, name="more"), test_fraction=0.2)
    assert data.dropped_unlabelled == {"training": 80, "test": 20}
    assert len(data.unlabelled_queries()) == 20


def test_transductive_keeps_test_questions_and_nothing_else():
    data = data_of(unlabelled=Numbers(95, 2000, name="more"), transductive=True)
    assert data.dropped_unlabelled == {"training": 5, "validation": 10}
    assert questions(data.test_sets()["sums"]) < questions(data.unlabelled_queries())
    assert {query.gold_answer for query in data.unlabelled_queries()} == {None}


def test_smaller_amounts_of_unlabelled_queries_lie_in_larger_ones():
    options = {"labelled_fraction": 0.5, "unlabelled": Numbers(100, 50)}
    amounts = [data_of(max_unlabelled_queries=limit, **options).unlabelled_queries() for limit in (10, 60, None)]
    assert [len(own) for own in amounts] == [10, 60, 100]
    assert questions(amounts[0]) < questions(amounts[1]) < questions(amounts[2])


def test_ids_name_the_unlabelled_queries_where_there_are_some():
    ids = data_of(labelled_fraction=0.5, unlabelled=Numbers(100, 3, name="more")).ids()
    assert (len(ids["training"]), len(ids["unlabelled"])) == (50, 53)
    assert ids["unlabelled"][-3:] == ["more-100", "more-101", "more-102"]


def test_an_id_of_two_questions_is_refused_since_labels_are_looked_up_by_it():
    class Other:
        def queries(self):
            return [replace(query, question=f"And {query.question}") for query in Numbers(0, 3).queries()]

    with pytest.raises(ValueError, match=r"dataset\.unlabelled: the id 'sums-0' occurs a second time.*`columns\.id`"):
        data_of(unlabelled=Other()).unlabelled_queries()


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
def test_impossible_fraction_is_refused_with_what_to_do(fraction):
    with pytest.raises(ValueError, match=r"dataset\.labelled_fraction=.*above 0 and at most 1.*`reward_mix=yon`"):
        data_of(labelled_fraction=fraction)


def test_impossible_limit_is_refused_by_its_key():
    with pytest.raises(ValueError, match=r"dataset\.max_unlabelled_queries=0: must be at least 1"):
        data_of(max_unlabelled_queries=0)


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def dataset_of(name, *overrides):
    return instantiate(composed(f"dataset={name}", *overrides).dataset, _convert_="all")


def test_every_dataset_takes_a_labelled_fraction_and_a_limit():
    for path in (CONF / "dataset").glob("*.yaml"):
        data = dataset_of(path.stem, "dataset.labelled_fraction=0.5", "dataset.max_unlabelled_queries=7")
        assert (data.labelled_fraction, data.max_unlabelled_queries) == (0.5, 7), path.stem


@pytest.mark.slow
def test_mini_math_aug_asks_new_problems_besides_those_of_mini_math():
    data, whole = dataset_of("mini_math_aug"), dataset_of("mini_math")
    labelled, unlabelled = data.training_queries(), data.unlabelled_queries()
    assert labelled == whole.training_queries()
    assert data.validation_queries() == whole.validation_queries()
    assert {query.gold_answer for query in [*labelled, *unlabelled]} == {None}
    # 10,000 of seed 1, less the few that were drawn before.
    assert len(unlabelled) == 10_000 - sum(data.dropped_unlabelled.values()) > 9_800
    assert set(data.dropped_unlabelled) <= {"training", "repeated"}
    assert all(query.id.startswith("mini_math-train-1-") for query in unlabelled)
    tests = data.test_sets()
    assert {name: len(queries) for name, queries in tests.items()} == {
        "mini_math": 1000, "unseen": 500, "mini_math_plus": 700, "mini_svamp": 1000
    }  # fmt: skip
    assert {name: tests[name] for name in whole.tests} == whole.test_sets()
    others = [*labelled, *data.validation_queries(), *(query for own in tests.values() for query in own)]
    assert not {question_key(q.question) for q in unlabelled} & {question_key(q.question) for q in others}


@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_roles_of_paper_j_name_a_dataset_with_unlabelled_queries_and_its_tests(scale):
    roles = composed(f"scale={scale}").roles
    data = build_stages(composed(f"scale={scale}", f"dataset={roles.aug}")).dataset
    assert data.name == roles.aug
    assert data.unlabelled is not None
    assert not data.transductive
    assert {roles.svamp, roles.math_plus, roles.math} <= set(data.tests)
    assert next(iter(data.tests)) == roles.math  # the dataset's own test comes first


def written(source, name, split, rows):
    (source / name).mkdir(exist_ok=True)
    (source / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def paper_files(tmp_path):
    """A few made-up rows of each set of paper J; some questions of GSM8K-Aug are those of another split."""

    def rows(*names):
        return [{"question": f"How many {name}?", "answer": "#### 3"} for name in names]

    written(tmp_path, "gsm8k", "train", rows(*(f"trains {n}" for n in range(20))))
    written(tmp_path, "gsm8k", "test", rows("tests"))
    aug = rows("new ones", "trains 0", "trains 1", "tests", "chairs", "new ones", "others")
    written(tmp_path, "gsm8k_aug", "train", [row | {"answer": "3"} for row in aug])
    plus = [row | {"answer": "3", "perturbation_type": "digit expansion"} for row in rows("plus", "plus two")]
    written(tmp_path, "gsm_plus", "test", plus)
    written(tmp_path, "gsm_symbolic", "test", [row | {"id": 1, "instance": 2} for row in rows("symbols")])
    svamp = {"question_concat": "How many chairs?", "Answer": "3", "ID": "chal-1", "Type": "Addition"}
    written(tmp_path, "svamp", "train", [svamp])
    written(tmp_path, "svamp", "test", [svamp | {"ID": "chal-2", "question_concat": "How many beds?"}])
    return tmp_path


def test_gsm8k_aug_is_labelled_on_gsm8k_and_asks_the_other_questions_of_gsm8k_aug(paper_files):
    data = dataset_of("gsm8k_aug", f"dataset.source={paper_files}")
    assert [query.question for query in data.unlabelled_queries()] == ["How many new ones?", "How many others?"]
    assert {query.dataset for query in data.unlabelled_queries()} == {"gsm8k_aug"}
    assert {query.dataset for query in data.training_queries()} == {"gsm8k"}
    assert list(data.test_sets()) == ["gsm8k", "gsm_plus", "gsm_symbolic", "svamp"]
    assert len(data.test_sets()["svamp"]) == 2  # train and test rows: the whole challenge set
    dropped = data.dropped_unlabelled
    assert (dropped["training"] + dropped.get("validation", 0), dropped["test"], dropped["repeated"]) == (2, 2, 1)


def test_gsm_plus_questions_are_asked_where_the_row_says_that_it_is_transductive(paper_files):
    plus = [f"dataset.source={paper_files}", "dataset/queries@dataset.unlabelled=gsm_plus"]
    assert dataset_of("gsm8k_aug", *plus).unlabelled_queries() == []
    data = dataset_of("gsm8k_aug", *plus, "dataset.transductive=true")
    assert [query.question for query in data.unlabelled_queries()] == ["How many plus?", "How many plus two?"]


def test_a_share_of_mawps_and_asdiv_can_be_labelled(shared_data):
    source = f"dataset.source={shared_data}"
    whole, data = (dataset_of("mawps_asdiv", source, *own) for own in ([], ["dataset.labelled_fraction=0.3"]))
    assert len(whole.training_queries()) == 2483
    labelled, unlabelled = data.training_queries(labelled=True), data.unlabelled_queries()
    assert len(labelled) == 745  # 0.3 × 2,483 = 744.9
    assert all(query.gold_answer for query in labelled)
    dropped = sum(data.dropped_unlabelled.values())
    assert len(labelled) + len(unlabelled) + dropped == 2483
    tests = [query for queries in data.test_sets().values() for query in queries]
    assert not {question_key(q.question) for q in unlabelled} & {question_key(q.question) for q in tests}
    assert data.test_sets() == whole.test_sets()
    assert data.validation_queries() == whole.validation_queries()
