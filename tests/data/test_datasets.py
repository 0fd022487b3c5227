import errno
import gzip
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from rkd.data.columns import ChoiceColumns, InstructionColumns, NumberColumns
from rkd.data.datasets import Data
from rkd.data.sources import GeneratedDataset, StoredDataset
from rkd.records import Query

CONF = Path(__file__).parents[2] / "conf"
HUB_DATASETS = [
    "gsm8k", "gsm_plus", "svamp", "mawps_asdiv", "mmlu_pro", "ultrafeedback", "alpaca_eval", "gsm8k_aug", "gsm_symbolic"
]  # fmt: skip
COLUMNS = NumberColumns(question="question", answer="answer")


OPEN_ENDED = ("ultrafeedback", "alpaca_eval")


def dataset_of(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        if name in OPEN_ENDED:  # they choose labels, judge and annotator, too
            return instantiate(compose("config", [f"dataset={name}", *overrides]).dataset)
        return instantiate(compose(overrides=[f"+dataset={name}", *overrides]).dataset)


def rows_of(count):
    return [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(count)]


def written(folder, rows, name="train.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def stored(source, columns=COLUMNS, **options):
    return StoredDataset(name="sums", source=str(source), splits=["train"], columns=columns, **options)


def data_of(folder, rows, **options):
    source = stored(written(folder, rows))
    return Data(name="sums", training=source, tests={"sums": source}, source=str(folder), **options)


def test_a_row_becomes_a_query_with_its_gold_answer(tmp_path):
    assert stored(written(tmp_path, rows_of(1))).queries() == [
        Query(id="sums-train-0", dataset="sums", question="What is 0 + 1?", gold_answer="1")
    ]


def test_the_answer_stands_behind_its_marker(tmp_path):
    columns = NumberColumns(question="question", answer="answer", answer_marker="####")
    rows = [{"question": "Why?", "answer": "5 + 1,229 = 1,234\n#### 1,234"}]
    assert stored(written(tmp_path, rows), columns).queries()[0].gold_answer == "1234"


def test_rows_without_an_answer_by_design_are_left_out(tmp_path):
    columns = NumberColumns(question="question", answer="answer", unanswerable="None")
    rows = [*rows_of(2), {"question": "Unknowable?", "answer": "None"}]
    assert len(stored(written(tmp_path, rows), columns).queries()) == 2


def test_rows_of_one_seed_question_are_one_cluster_and_others_stand_alone():
    columns = NumberColumns(question="question", answer="answer", cluster="seed")
    seeds = ["How many?", "How many?\r\n", "Wie viele?", 3, None]
    rows = [{"question": f"q{i}", "answer": "1", "seed": seed} for i, seed in enumerate(seeds) if seed is not None]
    clusters = [columns.query(row, "plus", str(i)).cluster for i, row in enumerate(rows)]
    assert clusters == ["How many?", "How many?", "Wie viele?", "3"]
    assert columns.query({"question": "q", "answer": "1"}, "plus", "0").cluster is None
    with pytest.raises(ValueError, match="`seed` is NoneType instead of text"):
        columns.query({"question": "q", "answer": "1", "seed": None}, "plus", "0")


def test_source_may_be_the_parent_or_the_datasets_own_folder_and_files_may_be_compressed(tmp_path):
    own = written(tmp_path / "sums", rows_of(3))
    plain = stored(own).queries()
    assert stored(tmp_path).queries() == plain
    (own / "train.jsonl.gz").write_bytes(gzip.compress((own / "train.jsonl").read_bytes()))
    (own / "train.jsonl").unlink()
    assert stored(tmp_path).queries() == plain


def test_training_queries_carry_no_gold_answer_unless_labelled(tmp_path):
    data = data_of(tmp_path, rows_of(20))
    assert {query.gold_answer for query in data.training_queries() + data.validation_queries()} == {None}
    labelled = data.training_queries(labelled=True) + data.validation_queries(labelled=True)
    assert all(query.question == f"What is {int(query.gold_answer) - 1} + 1?" for query in labelled)


def test_ninety_percent_train_and_ten_validate_without_overlap(tmp_path):
    data = data_of(tmp_path, rows_of(50))
    training = {query.id for query in data.training_queries()}
    validation = {query.id for query in data.validation_queries()}
    assert (len(training), len(validation), len(training | validation)) == (45, 5, 50)


def test_the_split_depends_on_its_seed_alone(tmp_path):
    first, again = data_of(tmp_path, rows_of(50)), data_of(tmp_path, rows_of(50))
    other = data_of(tmp_path, rows_of(50), split_seed=1)
    assert first.validation_queries() == again.validation_queries()
    assert first.validation_queries() != other.validation_queries()


def test_repeated_training_questions_are_dropped_and_counted_but_stay_in_the_test(tmp_path):
    repeated = {"question": "  what is 3 +\n1? ", "answer": "4"}
    data = data_of(tmp_path, [*rows_of(10), repeated, repeated])
    assert data.repeated_questions == 2
    ids = {query.id for query in data.training_queries() + data.validation_queries()}
    assert ids == {f"sums-train-{i}" for i in range(10)}
    assert len(data.test_sets()["sums"]) == 12


def test_a_limit_takes_a_subset_in_order_and_smaller_subsets_lie_in_larger_ones(tmp_path):
    limits = {"max_validation_queries": 1, "max_test_queries": 7}
    small = data_of(tmp_path, rows_of(50), max_training_queries=5, **limits)
    large = data_of(tmp_path, rows_of(50), max_training_queries=20)
    numbers = [int(query.id.rpartition("-")[2]) for query in small.training_queries()]
    assert numbers == sorted(numbers)
    assert len(numbers) == 5
    assert set(small.training_queries()) < set(large.training_queries())
    assert len(small.validation_queries()) == 1
    assert len(small.test_sets()["sums"]) == 7


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"question": "Why?"}', "`answer` is missing"),
        (b'{"answer": "5"}', "`question` is missing"),
        (b'{"question": 7, "answer": "5"}', "`question` is int instead of text"),
        (b'{"question": null, "answer": "5"}', "`question` is NoneType instead of text"),
        (b'{"question": "Why?", "answer": ["5"]}', "`answer` is list instead of text"),
        (b'{"question": "  ", "answer": "5"}', "`question` is empty"),
        (b'{"question": "Why?", "answer": "many"}', "`answer` holds no number"),
        (b'{"question": "Why \\ud800?", "answer": "5"}', "half a surrogate pair"),
        (b'{"question": "Why?", "answer": "5"', "no JSON object"),
        (b"", "no JSON object"),
        (b"[1]", "list instead of a JSON object"),
        (b"[" * 100_000, "no JSON object"),
        ('{"question": "Café?", "answer": "5"}'.encode("latin-1"), "not UTF-8"),
        ('{"question": "Why?", "answer": "5"}'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_reason(tmp_path, line, reason):
    good = json.dumps(rows_of(1)[0]).encode()
    (tmp_path / "train.jsonl").write_bytes(good + b"\n" + line + b"\n" + good + b"\n")
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 2: .*{reason}"):
        stored(tmp_path).queries()


def test_an_answer_without_its_marker_is_refused(tmp_path):
    columns = NumberColumns(question="question", answer="answer", answer_marker="####")
    with pytest.raises(ValueError, match=r"line 1: `answer` lacks the mark '####'"):
        stored(written(tmp_path, rows_of(1)), columns).queries()


def test_an_id_that_occurs_twice_is_refused(tmp_path):
    columns = NumberColumns(question="question", answer="answer", id=["id"])
    rows = [row | {"id": "same"} for row in rows_of(2)]
    with pytest.raises(ValueError, match=r"line 2: the id 'sums-same' occurs a second time"):
        stored(written(tmp_path, rows), columns).queries()


def test_a_truncated_gzip_file_is_refused(tmp_path):
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(b"x" * 10_000)[:-9])
    with pytest.raises(ValueError, match=r"train\.jsonl\.gz: no complete gzip file"):
        stored(tmp_path).queries()


def test_an_empty_dataset_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"dataset=sums, split train, has no questions .*`dataset.source`"):
        stored(written(tmp_path, [])).queries()


def test_a_missing_split_is_named_with_what_is_present(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"split train: .*Bad split: train.*; present: dev\.jsonl\. "):
        stored(written(tmp_path, rows_of(1), "dev.jsonl")).queries()
    with pytest.raises(FileNotFoundError, match=r"absent does not exist\. Give the folder that holds train\.jsonl, "):
        stored(tmp_path / "absent").queries()


def test_a_hub_that_cannot_be_reached_points_to_a_local_folder():
    with pytest.raises(FileNotFoundError, match=r"dataset=sums could not be loaded from the hub .*`dataset.source`"):
        stored("hub", hub_path="nobody/absent-from-every-cache").queries()


def test_a_dataset_that_the_hub_lacks_asks_for_a_folder():
    with pytest.raises(FileNotFoundError, match=r"not on the hub in this form: .*docs/datasets\.md says where"):
        stored("hub").queries()


def test_the_hub_is_a_way_out_for_a_dataset_that_it_has_only(tmp_path):
    with pytest.raises(FileNotFoundError) as lacking:
        stored(str(tmp_path / "none")).queries()
    assert "docs/datasets.md says where it comes from" in str(lacking.value)
    assert "source=hub" not in str(lacking.value)
    with pytest.raises(FileNotFoundError, match=r"`dataset\.source=hub` fetches the dataset"):
        stored(str(tmp_path / "none"), hub_path="someone/sums").queries()


def test_too_few_questions_for_a_validation_share_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 distinct training questions: too few"):
        data_of(tmp_path, rows_of(1)).training_queries()


@pytest.mark.parametrize("options", [{"validation_fraction": 0}, {"max_test_queries": 0}])
def test_impossible_values_are_refused_by_their_key(tmp_path, options):
    with pytest.raises(ValueError, match=f"dataset.{next(iter(options))}=0"):
        data_of(tmp_path, rows_of(2), **options)


CHOICES = ChoiceColumns(question="question", options="options", answer="answer", id=["question_id"], category="field")
CHOICE = {"question": " Which? ", "options": ["one ", "two", "three"], "answer": "B", "question_id": 7, "field": "law"}


def test_a_choice_becomes_a_question_with_lettered_options():
    assert CHOICES.query(CHOICE, "quiz", "0") == Query(
        "quiz-7", "quiz", "Which?\nOptions:\n(A) one\n(B) two\n(C) three", gold_answer="B", category="law"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"options": "one, two"}, "`options` is no list of texts"),
        ({"options": ["one", 2]}, "`options` is no list of texts"),
        ({"options": ["one"]}, "`options` has 1 entries instead of 2 to 10"),
        ({"options": ["one"] * 11}, "`options` has 11 entries"),
        ({"answer": "D"}, "`answer` is 'D', no letter of the 3 options"),
        ({"answer": "AB"}, "`answer` is 'AB', no letter"),
        ({"answer": 1}, "`answer` is int instead of text"),
        ({"question_id": 1.5}, "`question_id` is float instead of text"),
    ],
)
def test_a_bad_choice_is_refused_with_its_reason(change, reason):
    with pytest.raises(ValueError, match=reason):
        CHOICES.query(CHOICE | change, "quiz", "0")


def test_an_instruction_has_no_answer_and_is_left_out_where_nothing_rates_responses_to_it():
    columns = InstructionColumns(question="instruction", rated="completions")
    row = {"instruction": "Write a limerick.", "completions": [{"response": "There was …"}]}
    assert columns.query(row, "open", "train-0") == Query("open-train-0", "open", "Write a limerick.")
    assert columns.query(row | {"completions": []}, "open", "train-0") is None
    with pytest.raises(ValueError, match="`completions` is missing"):
        columns.query({"instruction": "Write."}, "open", "train-0")


def test_a_test_set_can_be_drawn_from_the_training_rows_with_each_categorys_share(tmp_path):
    rows = [row | {"kind": "many" if i < 70 else "few"} for i, row in enumerate(rows_of(100))]
    columns = NumberColumns(question="question", answer="answer", category="kind")
    source = stored(written(tmp_path, rows), columns)
    data = Data(name="sums", training=source, tests={}, test_fraction=0.15, split_seed=3)
    (test,) = data.test_sets().values()
    kinds = [query.category for query in test]
    assert (kinds.count("many"), kinds.count("few")) in {(11, 4), (10, 5)}  # 15 % of 70 and 30 are 10.5 and 4.5
    assert (len(data.training_queries()), len(data.validation_queries())) == (77, 8)  # 90 and 10 % of the other 85
    ids = data.ids()
    assert ids["tests"] == {"sums": [query.id for query in test]}
    drawn = [*ids["training"], *ids["validation"], *ids["tests"]["sums"]]
    assert sorted(drawn) == sorted(query.id for query in source.queries())
    other = Data(name="sums", training=source, tests={}, test_fraction=0.15, split_seed=4)
    assert other.ids()["tests"] != ids["tests"]


def saved_dict(rows, folder):
    import datasets

    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(str(folder))


def saved_split(rows, folder):
    import datasets

    datasets.DatasetDict({"train": rows})["train"].save_to_disk(str(folder))


def saved_by_split(rows, folder):
    rows.save_to_disk(str(folder / "train"))
    rows.select([0]).save_to_disk(str(folder / "test"))


def hub_repository(rows, folder):
    written(folder / "main", rows.to_list(), "rows.jsonl")
    files = "data_files: [{split: train, path: main/rows.jsonl}]"
    (folder / "README.md").write_text(f"---\nconfigs: [{{config_name: main, {files}}}]\n---\n", encoding="utf-8")


def config_names_a_file(rows, folder):
    (folder / "all.json").write_text(json.dumps(rows.to_list()), encoding="utf-8")


def parquet_of_the_hub(rows, folder):
    (folder / "data").mkdir()
    rows.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))


FORMS = {
    "a DatasetDict": saved_dict,
    "a Dataset that knows its split": saved_split,
    "a Dataset without a split": lambda rows, folder: rows.save_to_disk(str(folder)),
    "a Dataset in the folder of each split": saved_by_split,
    "Parquet": lambda rows, folder: rows.to_parquet(str(folder / "train.parquet")),
    "Parquet as on the hub": parquet_of_the_hub,
    "CSV": lambda rows, folder: rows.to_csv(str(folder / "train.csv")),
    "one file of JSON lines with another name": lambda rows, folder: rows.to_json(str(folder / "rows.jsonl")),
    "a repository with README": hub_repository,
    "a file that the config names": config_names_a_file,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_own", [False, True], ids=["below the source", "the source"])
def test_a_local_folder_may_have_any_form_that_datasets_reads(tmp_path, form, is_own, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", "/dev/null/cache")  # the home folder cannot be written
    folder = tmp_path / "sums"
    folder.mkdir()
    FORMS[form](datasets.Dataset.from_list(rows_of(3)), folder)
    configs = {"hub_config": "main", "hub_files": {"train": "all.json"} if "config" in form else {}}
    source = stored(folder if is_own else tmp_path, **configs)
    assert source.queries() == stored(written(tmp_path / "lines", rows_of(3))).queries()
    with pytest.raises(FileNotFoundError, match=r"dataset=sums, split dev: dataset\.source=.*present: ") as error:
        replace(source, splits=["dev"]).queries()
    assert "network" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is a file"),
        ({}, "holds no file of a known form. Give the folder that holds train.jsonl, "),
        ({"notes.txt": b"x"}, "holds no file of a known form); present: notes.txt"),
        ({"train.parquet": b"x"}, "cannot be read"),
        ({"state.json": b"{}", "dataset_info.json": b"{}"}, "cannot be read"),
        ({"dataset_dict.json": b"{"}, "cannot be read"),
        ({"train.csv": b""}, "has no questions"),
        ({f"{number}.txt": b"x" for number in range(50)}, "…"),
    ],
)
def test_a_source_of_no_known_form_says_what_it_is_and_never_speaks_of_the_network(tmp_path, content, said):
    pytest.importorskip("datasets")
    source = tmp_path / "source"
    if content is None:
        source.write_bytes(b"x")
    else:
        source.mkdir()
        for name, text in content.items():
            (source / name).write_bytes(text)
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        stored(source).queries()
    assert said.partition(" Give")[0].rstrip(".") in str(error.value)
    assert "network" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_csv_file_keeps_every_value_as_text(tmp_path):
    text = 'question,answer\r\n"How many, ""in words""?\nSay it.",007\r\nNA,1 200\r\n'
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = stored(tmp_path).queries()
    assert (first.question, first.gold_answer) == ('How many, "in words"?\nSay it.', "7")  # columns of numbers
    assert (second.question, second.gold_answer) == ("NA", "1200")


@pytest.mark.parametrize(
    "text", [b"question,answer\na,1\nb\n", b"question,answer\na,1,2\n", b"question,answer\n\xff,1\n"]
)
def test_a_bad_row_of_a_csv_file_is_named(tmp_path, text):
    (tmp_path / "train.csv").write_bytes(text)
    with pytest.raises(ValueError, match=r"train\.csv, line \d: .*Save it as CSV in UTF-8"):
        stored(tmp_path).queries()


def test_one_dataset_of_another_split_says_how_to_save_each(tmp_path):
    datasets = pytest.importorskip("datasets")
    saved_split(datasets.Dataset.from_list(rows_of(3)), tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"one Dataset, of the split train; save each split .*/test'\)`, or all"
    ):
        replace(stored(tmp_path), splits=["test"]).queries()


def test_a_damaged_file_names_the_last_good_row(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows_of(3)).to_parquet(str(tmp_path / "train.parquet"))
    content = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(content[:20] + b"\xff" * 40 + content[60:])
    with pytest.raises((ValueError, FileNotFoundError), match=r"cannot be read"):
        stored(tmp_path).queries()


def test_a_hub_whose_files_cannot_be_kept_names_the_folder_to_set(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "/home/nobody/.cache")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match=r"Permission denied.*Set HF_HOME to a folder that can be written"):
        stored("hub", hub_path="somebody/something").queries()


def test_hub_and_local_folder_give_the_same_queries(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = [{"question": "Why?", "answer": "5 + 1 = 6\n#### 6"}, {"question": "How?", "answer": "#### 1,234"}]
    columns = NumberColumns(question="question", answer="answer", answer_marker="####")
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = stored("hub", columns, hub_path="someone/sums", hub_config="main")
    assert hub.queries() == stored(written(tmp_path, rows), columns).queries()
    replace(hub, hub_files={"train": "rows.json"}).queries()
    assert asked == [
        (("someone/sums", "main"), {"split": "train"}),
        (("json",), {"data_files": "hf://datasets/someone/sums/rows.json", "split": "train"}),
    ]


def sums(split, size, seed):
    return [Query(f"{split}-{i}", "sums", f"What is {i} + {seed}?", str(i + seed)) for i in range(size)]


def test_a_generated_dataset_hands_split_size_and_seed_to_its_generator():
    queries = GeneratedDataset(generator=sums, split="train", size=3, seed=4).queries()
    assert [query.question for query in queries] == ["What is 0 + 4?", "What is 1 + 4?", "What is 2 + 4?"]


def test_a_generator_that_repeats_an_id_or_falls_short_is_refused():
    with pytest.raises(ValueError, match="made 2 queries with 1 ids instead of 2"):
        GeneratedDataset(generator=lambda *_: sums("a", 1, 0) * 2, split="train", size=2, seed=0).queries()
    with pytest.raises(ValueError, match="made 1 queries with 1 ids instead of 2"):
        GeneratedDataset(generator=lambda *_: sums("a", 1, 0), split="train", size=2, seed=0).queries()


@pytest.mark.parametrize(
    ("name", "training", "validation", "tests", "repeated"),
    [
        ("gsm8k", 6726, 747, {"gsm8k": 1319}, 0),  # 7,473 rows
        ("gsm_plus", 6726, 747, {"gsm_plus": 2100}, 0),  # 2,400 rows less 300 without an answer
        ("svamp", 630, 70, {"svamp": 300}, 0),
        ("mawps_asdiv", 2483, 276, {"svamp": 1000, "mawps_asdiv": 306}, 11),  # 3,076 rows, eleven of them repeated
        # 2,693 rows less 74 that ask for several numbers, 79 of the others repeated
        ("asdiv_multiarith", 2057, 229, {"svamp": 1000, "asdiv_multiarith": 254}, 79),
        ("mmlu_pro", 9083, 1009, {"mmlu_pro": 1781}, 159),  # of 12,032 rows; 15 % of 11,873 test
    ],
)
def test_the_public_datasets_have_their_known_sizes(shared_data, name, training, validation, tests, repeated):
    testmini = ["dataset.tests.gsm_plus.splits=[testmini]"] if name == "gsm_plus" else []
    data = dataset_of(name, f"dataset.source={shared_data}", *testmini)
    assert len(data.training_queries()) == training
    assert len(data.validation_queries()) == validation
    assert {test: len(queries) for test, queries in data.test_sets().items()} == tests
    assert data.repeated_questions == repeated


def test_the_recorded_baseline_of_alpaca_eval_holds_its_instructions(shared_data):
    split = "dataset.tests.alpaca_eval.splits=[reference_gpt4_1106_preview]"
    queries = dataset_of("alpaca_eval", f"dataset.source={shared_data}", split).test_sets()["alpaca_eval"]
    assert len(queries) == 805
    assert all(query.gold_answer for query in queries)  # the baseline's response


def test_all_gsm8k_rows_load_in_under_three_seconds(shared_data):
    start = time.process_time()
    data = dataset_of("gsm8k", f"dataset.source={shared_data / 'gsm8k'}")
    count = len(data.training_queries()) + len(data.validation_queries()) + len(data.test_sets()["gsm8k"])
    assert count == 8792
    assert time.process_time() - start < 3


@pytest.mark.parametrize("name", HUB_DATASETS)
def test_every_dataset_config_composes_with_the_hub_as_its_source(name):
    data = dataset_of(name)
    assert data.name == name
    augmentation = {data.unlabelled.source} if data.unlabelled is not None else set()
    assert {data.source, data.training.source, *augmentation, *(test.source for test in data.tests.values())} == {"hub"}
