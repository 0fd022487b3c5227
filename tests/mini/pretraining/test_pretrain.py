"""Pretraining: the corpus is kept and packed whole, the weights say what counts, and every shipped fingerprint runs."""

import dataclasses
import json
import math
import random
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from transformers import AutoModelForCausalLM, AutoTokenizer

from rkd.data.answers import answers_match, extract_answer
from rkd.data.judge_prompts import ComparePrompt, JudgePrompt
from rkd.data.prompts import Example, PromptTemplate
from rkd.mini import math as mini_math
from rkd.mini import open as mini_open
from rkd.mini.corpus import CHOICE_KINDS, KINDS, OPEN_KINDS, stream
from rkd.mini.documents import NO, YES, Document, compared
from rkd.mini.pretraining.corpus_tokens import CHECKPOINTS, VERDICTS, Corpus, Forms, TokenWeights, load_documents, pack
from rkd.mini.pretraining.pretrain import Pretrain, weighted_token_loss
from rkd.mini.pretraining.quality import (
    JudgedResponse,
    judging_accuracy,
    marking_quality,
    sampled_responses,
    solving_accuracy,
    written_responses,
)
from rkd.mini.pretraining.sampled_documents import GradedSamples, JudgedSamples, MarkedSamples
from rkd.records import Query, Response
from rkd.store.artifact_store import Store
from rkd.training.trainer import Training
from tests.support import tiny_models

CONF = Path(__file__).parents[3] / "conf"
MODELS = sorted(path.stem for path in (CONF / "pretrain").glob("*.yaml"))
PROMPT = PromptTemplate(template="Q: {question}\nA: Let's break this down step by step!\n")
PROMPTS = {
    "mini_math": PROMPT,
    "mini_choice": PromptTemplate(template="Question: {question}\nAnswer:\n"),
    "mini_open": PromptTemplate(template="Question: {question}\nAnswer:"),
}
COMPARED = "{question}\n<response>{first}</response>\n<response>{second}</response>\nBetter:"
FORMS = Forms(prompts=PROMPTS, judge=JudgePrompt(), rubric=JudgePrompt(), compare=ComparePrompt(template=COMPARED))
CORPUS = Corpus(documents_per_kind=dict.fromkeys(KINDS, 40), vocabulary_size=600, seed=1)
WEIGHTS = TokenWeights(question=0.25, plain_text=0.5, verdict=10.0)
TRAINING = Training(accelerator="cpu")


def tiny(**changed) -> Pretrain:
    values = {
        "hidden_size": 16,
        "layers": 1,
        "heads": 2,
        "tokens": 3 * 4 * 256,
        "mixture": {"arithmetic": 0.5, "problem": 0.5},
        "learning_rate": 4e-3,
        "muon_learning_rate": 0.02,
        "batch_sequences": 4,
        "warmup_steps": 1,
    }
    return Pretrain(**(values | changed))


def fit(stage, corpus, folder):
    return stage.fit(corpus, training=TRAINING, logger=False, folder=folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def corpus(store):
    return CORPUS.tokenized(store, FORMS)


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return AutoTokenizer.from_pretrained(corpus.folder)


def documents_of(*lengths, token=1):
    """Documents of these lengths; every token of the n-th is `token` + n, every weight 1."""
    return [
        (np.full(length, token + place, np.uint16), np.ones(length, np.float32)) for place, length in enumerate(lengths)
    ]


def test_corpus_is_made_once(corpus, store):
    assert CORPUS.tokenized(store, FORMS).digest == corpus.digest
    assert len(list((store.root / "pretrain_corpus").glob("[!.]*"))) == 1


def test_examples_of_the_prompt_do_not_change_the_corpus(corpus, store):
    examples = [Example("1 + 1?", "The answer is 2.")]
    prompts = PROMPTS | {"mini_math": PromptTemplate(template=PROMPT.template, examples=examples)}
    assert CORPUS.tokenized(store, dataclasses.replace(FORMS, prompts=prompts)).digest == corpus.digest


def test_problem_is_question_in_the_prompt_then_response_then_end(corpus, tokenizer):
    tokens, weights = load_documents(corpus.folder, "problem", WEIGHTS)[0]
    question, response = (tokenizer.decode(tokens[weights == weight]) for weight in (0.25, 1.0))
    assert question.startswith("Q: ")
    assert question.endswith("A: Let's break this down step by step!\n")
    assert response.startswith("Step 1: ")
    assert response.endswith(tokenizer.eos_token)
    assert tokens[-1] == tokenizer.eos_token_id


def test_text_without_question_has_the_weight_of_plain_text(corpus):
    for _, weights in load_documents(corpus.folder, "arithmetic", WEIGHTS):
        assert set(weights.tolist()) == {0.5}


def test_verdict_is_one_token_with_its_own_weight(corpus, tokenizer):
    verdicts = set()
    for tokens, weights in load_documents(corpus.folder, "judged", WEIGHTS):
        verdict, end = tokens[weights == 10.0]
        assert end == tokenizer.eos_token_id
        assert tokenizer.decode(tokens[weights == 0.25]).endswith("</response>\nVerdict:")
        verdicts.add(tokenizer.decode(verdict))
    assert verdicts == {" Yes", " No"}


def test_judged_document_is_rendered_by_the_judge_prompt():
    text = FORMS.render(Document("2 + 2?", " Yes", "The answer is 4."))
    assert text.endswith("<response>\nThe answer is 4.\n</response>\nVerdict:")
    assert FORMS.render(Document(None, "2 + 2 = 4.")) == ""


def test_question_is_rendered_by_the_prompt_of_its_dataset():
    lettered = Document("2 + 2?\nOptions:\n(A) 4", "The answer is A.", dataset="mini_choice")
    assert FORMS.render(lettered) == "Question: 2 + 2?\nOptions:\n(A) 4\nAnswer:\n"


def test_corpus_can_take_the_tokenizer_of_a_checkpoint(corpus, store, tmp_path):
    fit(tiny(), corpus, tmp_path / "large")
    other = Corpus(documents_per_kind={"choice_facts": 40}, tokenizer_of="large", seed=1)
    taken = other.tokenized(store, FORMS, tmp_path)
    vocabularies = [AutoTokenizer.from_pretrained(one.folder).get_vocab() for one in (taken, corpus)]
    assert vocabularies[0] == vocabularies[1]
    stage = tiny(mixture={"choice_facts": 1.0}, continue_from="large")
    assert fit(stage, taken, tmp_path / "choice").steps == 3


def test_missing_checkpoint_of_the_tokenizer_is_named_with_its_command(store, tmp_path):
    other = Corpus(documents_per_kind={"choice_facts": 40}, tokenizer_of="mini_large", seed=1)
    with pytest.raises(FileNotFoundError, match=r"`python -m rkd pretrain pretrain=mini_large`"):
        other.tokenized(store, FORMS, tmp_path)


def test_responses_that_a_model_samples_are_documents_with_the_verdict_on_each(store, tmp_path):
    problem = next(stream({"problem": 1.0}, 3))
    tiny_models.llama_folder(tmp_path / "model", [problem.text], 300)
    sampled = JudgedSamples(problems={"model": 3}, temperatures=(0.7, 1.0))
    documents = sampled.documents(3, PROMPTS, tmp_path)["judged_samples"]
    assert {document.question for document in documents} > {problem.question}
    assert 3 <= len(documents) <= 6
    for document in documents:
        gold = next(d.text for d in stream({"problem": 1.0}, 3) if d.question == document.question)
        given, wanted = (extract_answer(text, "mini_math") for text in (document.judged, gold))
        assert document.text == (YES if answers_match(given, wanted, "mini_math") else NO)
    corpus = Corpus(documents_per_kind={"problem": 40}, vocabulary_size=600, seed=3, samples=sampled)
    made = corpus.tokenized(store, FORMS, tmp_path)
    assert len(load_documents(made.folder, "judged_samples", WEIGHTS)) == len(documents)
    assert all(weights[-2] == WEIGHTS.verdict for _, weights in load_documents(made.folder, "judged_samples", WEIGHTS))


def test_a_right_sample_is_one_with_the_gold_answer(monkeypatch, tmp_path):
    problem = next(stream({"problem": 1.0}, 3))
    answer = extract_answer(problem.text, "mini_math")
    texts = [problem.text, f"The answer is {answer}1.", problem.text, "no idea"]

    class Generator:
        def generate(self, queries, *_):
            return [[Response(query.id, "g", i, text, True) for i, text in enumerate(texts)] for query in queries]

    monkeypatch.setattr("rkd.mini.pretraining.sampled_documents.open_generator", lambda *_: Generator())
    sampled = JudgedSamples(problems={"model": 1}, temperatures=(1.0,) * 4)
    documents = sampled.documents(3, PROMPTS, tmp_path)["judged_samples"]
    assert [document.text for document in documents] == [YES, NO, NO]
    marked = MarkedSamples(problems={"model": 1}, temperatures=(1.0,) * 4).documents(3, PROMPTS, tmp_path)
    assert [document.judged for document in marked["marked_samples"]] == [document.judged for document in documents]
    assert [document.text.endswith("Score: 5") for document in marked["marked_samples"]] == [True, False, False]


def test_samples_of_instructions_are_graded_and_compared_in_both_orders(monkeypatch, tmp_path):
    question, _ = next(mini_open.instructions("pretrain", 3))
    good, other = mini_open.parse(question).answer(random.Random(0), [], is_long=False), "nothing"
    texts = [good, other, good, f"{good} {good}"]

    class Generator:
        def generate(self, queries, *_):
            return [[Response(query.id, "g", i, text, True) for i, text in enumerate(texts)] for query in queries]

    monkeypatch.setattr("rkd.mini.pretraining.sampled_documents.open_generator", lambda *_: Generator())
    sampled = GradedSamples(problems={"model": 1}, temperatures=(1.0,) * 4)
    made = sampled.documents(3, PROMPTS, tmp_path)
    assert tuple(made) == sampled.kinds
    assert [document.judged for document in made["graded_samples"]] == list(dict.fromkeys(texts))
    for document in made["graded_samples"]:
        assert document.text.endswith(f"\nScore: {mini_open.score(question, document.judged)}")
    # The pairs (good, other), (good, twice), (other, twice), of which the second is turned.
    assert [(d.reference, d.judged, d.text) for d in made["compared_samples"][:2]] == [
        (good, other, " A"),
        (texts[-1], good, " B"),
    ]
    assert compared(question, good, good) is None


def test_missing_model_whose_responses_are_to_be_judged_is_named_with_its_command(store, tmp_path):
    sampled = JudgedSamples(problems={"mini_large": 3}, temperatures=(0.7, 1.0))
    corpus = Corpus(documents_per_kind={"problem": 40}, vocabulary_size=600, seed=3, samples=sampled)
    with pytest.raises(FileNotFoundError, match=r"`python -m rkd pretrain pretrain=mini_large`"):
        corpus.tokenized(store, FORMS, tmp_path)


@pytest.mark.parametrize("given", [{}, {"vocabulary_size": 600, "tokenizer_of": "mini_large"}])
def test_corpus_has_either_a_new_tokenizer_or_that_of_a_checkpoint(given):
    with pytest.raises(ValueError, match="give one of them"):
        Corpus(documents_per_kind={"choice_facts": 40}, seed=1, **given)


def test_packed_documents_are_whole():
    documents = {"a": documents_of(5, 3, 7, 2), "b": documents_of(4, 6, token=11)}
    length_of = {1: 5, 2: 3, 3: 7, 4: 2, 11: 4, 12: 6}
    rows = pack(documents, {"a": 0.5, "b": 0.5}, rows=60, width=12, pad_id=0, seed=0)
    for tokens, weights in zip(rows.tokens.tolist(), rows.weights.tolist(), strict=True):
        for token, length in length_of.items():
            assert tokens.count(token) % length == 0
        assert [weight > 0 for weight in weights] == [token != 0 for token in tokens]
        assert tokens == [t for t in tokens if t] + [0] * tokens.count(0)  # padding at the end alone


def test_row_begins_with_documents_of_every_length():
    rows = pack({"a": documents_of(*range(1, 7))}, {"a": 1.0}, rows=300, width=12, pad_id=0, seed=0)
    assert set(rows.tokens[:, 0].tolist()) == {1, 2, 3, 4, 5, 6}


def test_shares_are_of_tokens_not_of_documents():
    # Documents of "long" are four times as long: with equal shares of tokens they are drawn a fourth as often.
    documents = {"short": documents_of(*[2] * 50, token=1), "long": documents_of(*[8] * 50, token=100)}
    rows = pack(documents, {"short": 0.5, "long": 0.5}, rows=2000, width=16, pad_id=0, seed=0)
    share = float((rows.tokens >= 100).sum() / (rows.tokens > 0).sum())
    assert share == pytest.approx(0.5, abs=0.02)


def test_kind_is_used_up_before_a_document_returns():
    rows = pack({"a": documents_of(*[4] * 10)}, {"a": 1.0}, rows=30, width=4, pad_id=0, seed=0)
    counts = torch.bincount(rows.tokens[:, 0].long(), minlength=11)[1:]
    assert counts.sum() == 30
    assert counts.min() >= 2  # 30 rows and 16 documents of the pool are at most five rounds; nobody waits for two


def test_little_is_padding(corpus):
    documents = {kind: load_documents(corpus.folder, kind, WEIGHTS) for kind in ("arithmetic", "problem")}
    rows = pack(documents, {"arithmetic": 0.3, "problem": 0.7}, rows=200, width=257, pad_id=0, seed=0)
    assert (rows.weights == 0).float().mean() < 0.15


def test_document_longer_than_a_row_is_refused_and_never_cut():
    with pytest.raises(ValueError, match=r"9 tokens.*`pretrain.sequence_tokens` to 8 or more"):
        pack({"a": documents_of(9)}, {"a": 1.0}, rows=1, width=8, pad_id=0, seed=0)


def test_same_seed_packs_the_same_rows():
    documents = {"a": documents_of(5, 3, 7, 2)}
    first, again, other = (pack(documents, {"a": 1.0}, rows=50, width=9, pad_id=0, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)


def test_loss_is_the_weighted_mean_of_hand_worked_terms():
    # Logits (0, ln 3) give p = (1/4, 3/4). Weights 1, 2, 0: (ln 4 + 2 · ln(4/3)) / 3.
    logits = torch.tensor([[[0.0, math.log(3)]] * 3])
    loss = weighted_token_loss(logits, torch.tensor([[0, 1, 0]]), torch.tensor([[1.0, 2.0, 0.0]]))
    assert loss.item() == pytest.approx((math.log(4) + 2 * math.log(4 / 3)) / 3)


def test_token_of_weight_zero_gets_no_gradient():
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weighted_token_loss(logits, torch.tensor([[0, 1, 2]]), torch.tensor([[1.0, 0.0, 1.0]])).backward()
    assert torch.all(logits.grad[0, 1] == 0)
    assert torch.all(logits.grad[0, [0, 2]].abs().sum(-1) > 0)


def test_written_folder_is_a_small_llama_in_bfloat16(corpus, tokenizer, tmp_path):
    report = fit(tiny(), corpus, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (report.steps, report.tokens) == (3, 3 * 4 * 256)
    assert config["tie_word_embeddings"] is True
    assert config["intermediate_size"] == 32  # 16 · 8/3 = 42.67, down to a multiple of 16
    assert config["bos_token_id"] is None
    assert (config["eos_token_id"], config["pad_token_id"]) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.bfloat16
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab() == tokenizer.get_vocab()


def test_loss_goes_down(corpus, tmp_path):
    short, long = (fit(tiny(tokens=steps * 4 * 256), corpus, tmp_path / str(steps)) for steps in (2, 40))
    assert long.loss < short.loss - 0.5


def test_same_seed_makes_the_same_model(corpus, tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        fit(tiny(seed=seed), corpus, tmp_path / name)
    first, again, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again", "other"))
    assert first == again
    assert first != other


def test_pretraining_leaves_the_generator_of_the_process_alone(corpus, tmp_path):
    before = torch.get_rng_state()
    fit(tiny(), corpus, tmp_path / "model")
    assert torch.equal(before, torch.get_rng_state())


def test_judge_continues_from_the_weights_of_another_model(corpus, tmp_path):
    fit(tiny(), corpus, tmp_path / "large")
    nearly_still = {"learning_rate": 1e-9, "muon_learning_rate": 1e-9}
    fit(tiny(mixture={"judged": 1.0}, continue_from="large", **nearly_still), corpus, tmp_path / "judge")
    large, judge = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("large", "judge"))
    for name, weight in large.items():
        torch.testing.assert_close(judge[name], weight, atol=1e-3, rtol=1e-2)


def test_missing_model_to_continue_from_is_named_with_its_command(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`python -m rkd pretrain pretrain=mini_large`"):
        fit(tiny(continue_from="mini_large"), corpus, tmp_path / "judge")


def test_model_of_another_size_is_refused_to_continue_from(corpus, tmp_path):
    fit(tiny(), corpus, tmp_path / "large")
    with pytest.raises(ValueError, match=r"\(16, 1, 2\), where pretrain\.\* says \(32, 1, 2\)"):
        fit(tiny(hidden_size=32, continue_from="large"), corpus, tmp_path / "judge")


def test_model_of_another_tokenizer_is_refused_to_continue_from(corpus, store, tmp_path):
    other = Corpus(documents_per_kind=dict.fromkeys(KINDS, 40), vocabulary_size=500, seed=1)
    fit(tiny(), other.tokenized(store, FORMS), tmp_path / "large")
    with pytest.raises(ValueError, match="another tokenizer"):
        fit(tiny(continue_from="large"), corpus, tmp_path / "judge")


def test_kind_that_the_corpus_lacks_is_named(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"names 'poems', the corpus holds arithmetic, choice_chains"):
        fit(tiny(mixture={"poems": 1.0}), corpus, tmp_path / "model")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": 1000}, "less than one step of 4 × 256"),
        ({"mixture": {"problem": 0.0}}, "every share must be above 0"),
        ({"hidden_size": 18, "heads": 2, "learning_rate": 0.0}, "multiple of 2 · 2 heads"),
        ({"muon_learning_rate": 0.0}, "must be above 0"),
    ],
)
def test_impossible_values_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changed)


def test_the_documents_that_the_settled_tokenizer_was_trained_on_stay_as_they_are():
    assert set(composed("mini_1").corpus.documents_per_kind) == set(KINDS) - set(CHOICE_KINDS) - set(OPEN_KINDS)


def composed(model, *overrides):
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra.compose("pretrain", [f"pretrain={model}", *overrides])


@pytest.mark.parametrize("model", MODELS)
def test_every_shipped_mixture_is_of_kinds_that_the_corpus_has(model):
    config = composed(model)
    samples = config.corpus.get("samples")
    sampled = instantiate(samples).kinds if samples else ()
    assert set(config.pretrain.mixture) <= {*config.corpus.documents_per_kind, *sampled}
    assert set(config.corpus.documents_per_kind) <= set(KINDS)
    assert sum(config.pretrain.mixture.values()) == pytest.approx(1.0)
    assert instantiate(config.pretrain).steps > 2 * config.pretrain.warmup_steps


def test_shipped_models_stay_within_the_size_that_is_committed():
    vocabulary, megabytes = composed("mini_1").corpus.vocabulary_size, 0.0
    for model in MODELS:
        stage = instantiate(composed(model).pretrain)
        d, inner = stage.hidden_size, int(stage.hidden_size * 8 / 3) // 16 * 16
        megabytes += 2 * (vocabulary * d + stage.layers * (4 * d * d + 3 * d * inner + 2 * d) + d) / 1e6
    assert megabytes < 24


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_recipe_of_every_shipped_model_runs(model, store, tmp_path):
    few = [f"corpus.documents_per_kind.{kind}=60" for kind in composed(model).corpus.documents_per_kind]
    config = composed(
        model,
        "pretrain.tokens=5120",
        "pretrain.sequence_tokens=640",
        "pretrain.batch_sequences=4",
        "trainer.accelerator=cpu",
        *few,
    )
    forms, stage = instantiate(config.forms, _convert_="all"), instantiate(config.pretrain)
    if sampled := config.corpus.get("samples"):
        sampled.problems = dict.fromkeys(sampled.problems, 20)
    corpus = instantiate(config.corpus).tokenized(store, forms)
    if stage.continue_from:
        start = composed(
            stage.continue_from, "pretrain.tokens=5120", "pretrain.sequence_tokens=640", "pretrain.batch_sequences=4"
        )
        mixture = dict.fromkeys(config.corpus.documents_per_kind, 1.0)
        first = dataclasses.replace(instantiate(start.pretrain), mixture=mixture, continue_from=None)
        fit(first, corpus, tmp_path / stage.continue_from)
    report = stage.fit(corpus, training=instantiate(config.trainer), logger=False, folder=tmp_path / model)
    assert report.steps == 2
    assert math.isfinite(report.loss)
    if stage.mixture.keys() & set(VERDICTS):
        accuracy, auc = judging_accuracy(tmp_path / model, forms.judge, written_responses(10))
        assert 0 <= min(accuracy, auc) <= max(accuracy, auc) <= 1
    else:
        assert 0 <= solving_accuracy(tmp_path / model, forms.zero_shot["mini_math"], 4)["all"] <= 1


def test_a_judge_is_not_measured_on_responses_of_one_kind():
    right = [response for response in written_responses(20) if response.is_right]
    with pytest.raises(ValueError, match="all right or all wrong"):
        judging_accuracy(Path("judge"), JudgePrompt(), right)


def test_a_rubric_judge_is_right_where_it_gives_five_to_what_is_right(monkeypatch):
    responses = [JudgedResponse(Query(str(i), "mini_math", "2 + 2?"), "4", i < 2) for i in range(5)]
    replies = ["Score: 5", "Score: 4", "Score: 0", "Score: 5", "no idea"]

    class Generator:
        def generate(self, queries, *_, **__):
            return [[Response(q.id, "g", 0, text, True)] for q, text in zip(queries, replies, strict=True)]

    monkeypatch.setattr("rkd.mini.pretraining.quality.open_generator", lambda *_: Generator())
    assert marking_quality(Path("judge"), FORMS, responses) == pytest.approx((0.5, 0.2))


def test_sampled_responses_are_judged_by_their_answers(tmp_path):
    responses = ["Step 1: 1 + 1 = 2.\nThe answer is 2."]
    folder = tiny_models.llama_folder(tmp_path / "tiny", responses, 300).folder
    sampled = sampled_responses(folder, PROMPT, 3, temperature=0.7)
    assert [one.query for one in sampled] == mini_math.queries("validation", 3, seed=0)
    assert not any(one.is_right for one in sampled)


@pytest.mark.slow
def test_the_shipped_judge_tells_right_from_wrong_responses_of_the_shipped_teachers():
    prompt, areas = instantiate(composed("mini_judge").forms, _convert_="all").zero_shot["mini_math"], {}
    for name in ("mini_large", "mini_small"):
        responses = sampled_responses(CHECKPOINTS / name, prompt, 150, temperature=0.7)
        areas[name] = judging_accuracy(CHECKPOINTS / "mini_judge", JudgePrompt(), responses)[1]
    assert min(areas.values()) > 0.75, areas
