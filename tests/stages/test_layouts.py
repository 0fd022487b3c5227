"""Students of all tokenizer layouts: what they are taught is what they write, and what judges and rewards then read."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM

from rkd.data.prompts import PromptTemplate
from rkd.generation.engines import HFEngine, LocalEngine
from rkd.judges.likelihood import LocalLikelihood
from rkd.models.batches import pad
from rkd.models.loading import ModelOptions, load_causal_lm, load_tokenizer
from rkd.models.policy import Policy
from rkd.models.reward_model import new_reward_model
from rkd.protocols import Sampling
from rkd.records import Checkpoint, PreferencePair, Query, Response, ScoredResponse
from rkd.rl.rewards import LearnedReward
from rkd.stages.preference_batches import collate_pairs, tokenize_pairs
from rkd.stages.sft import SFT
from tests.support.fakes import context
from tests.support.tiny_tokenizers import LAYOUTS, folder_of

QUERIES = [Query("short", "svamp", "3!?"), Query("long", "svamp", "What is 4! + 1?")]
TAUGHT = {"short": "3! is 6!", "long": "The answer is 25!"}
PROMPT = PromptTemplate(template="{question}")
LOCAL = LocalEngine()
GREEDY = Sampling(0.0, 1, 24)
STAGE = SFT(learning_rate=1e-2, epochs=90, batch_size=2, max_tokens=200, final_learning_rate_fraction=1.0)
CASES = {
    "gpt2": {},
    "gpt2, pad is the end": {"pad_token": "<|endoftext|>"},
    "gpt2, pad is text": {"pad_token": "!"},
    "llama3": {},
    "qwen": {},
    "smollm2": {},
    "smollm2, asked in plain text": {"chat_template": None},
    "gemma, pad is unknown": {"pad_token": "<unk>"},
    "t5": {},
    "mistral, pad is the beginning": {"pad_token": "<s>"},
}


@pytest.fixture(scope="module", params=CASES)
def student(request, tmp_path_factory) -> Checkpoint:
    """A student that has learned two responses by heart."""
    layout = request.param.partition(",")[0]
    start = folder_of(LAYOUTS[layout](**CASES[request.param]), tmp_path_factory.mktemp("start"), hidden=32)
    folder = tmp_path_factory.mktemp("taught")
    STAGE.fit([(query, TAUGHT[query.id]) for query in QUERIES], context(start, folder, prompt=PROMPT))
    return Checkpoint(folder, "taught")


def generator(student: Checkpoint, engine=LOCAL):
    return engine.open(student, PROMPT, "student", lambda _: None, ModelOptions(device="cpu"))


def answer(query: Query, text: str) -> Response:
    return Response(query.id, "student", 0, text, True)


@pytest.mark.parametrize("engine", [LOCAL, HFEngine()], ids=["local", "hf"])
def test_a_student_writes_what_it_was_taught_and_ends(student, engine):
    written = generator(student, engine).generate(QUERIES, GREEDY, 0)
    assert {own.query_id: (own.text, own.is_finished) for (own,) in written} == {
        name: (text, True) for name, text in TAUGHT.items()
    }


def test_the_tokens_that_a_policy_samples_are_those_that_it_was_taught(student):
    own = generator(student)
    batch = own.sample(QUERIES, GREEDY, 0)
    taught = PROMPT.encode_responses([TAUGHT[query.id] for query in QUERIES], [True, True], own.tokenizer)
    assert batch.response_rows() == taught
    assert [row[-1] for row in taught] == [PROMPT.end_id(own.tokenizer) or own.tokenizer.eos_token_id] * 2
    assert own.is_finished(batch) == [True, True]
    assert own.texts(batch) == [TAUGHT[query.id] for query in QUERIES]


def test_what_fills_a_batch_changes_nothing(student):
    own = generator(student)
    prompts = PROMPT.encode(QUERIES, own.tokenizer)
    policy = Policy(load_causal_lm(student.folder)).eval()
    batch = own.sample(QUERIES, GREEDY, 0)
    expected = policy(batch).logprobs
    for fill in (1, own.tokenizer.eos_token_id, len(own.tokenizer) - 1):
        prompt_ids, prompt_mask = pad(prompts, fill, left=True)
        responses, _ = pad(batch.response_rows(), fill, left=False)
        filled = dataclasses.replace(batch, prompt_ids=prompt_ids, prompt_mask=prompt_mask, response_ids=responses)
        assert torch.equal(policy(filled).logprobs, expected)


def test_likelihood_pairs_and_reward_read_the_end_that_the_student_writes(student):
    own = generator(student)
    query, tokenizer = QUERIES[1], own.tokenizer
    end = PROMPT.end_id(tokenizer) or tokenizer.eos_token_id
    policy = Policy(load_causal_lm(student.folder)).eval()
    # Learned by heart, with its end: the geometric mean of the probabilities is near 1.
    right, other = answer(query, TAUGHT["long"]), answer(query, TAUGHT["short"])
    likely, unlikely = LocalLikelihood(policy, tokenizer, PROMPT).judge([query, query], [right, other])
    assert likely > 0.8 > unlikely
    scored = [ScoredResponse(response, None, score) for response, score in ((right, 1.0), (other, 0.0))]
    (pair,), dropped = tokenize_pairs(tokenizer, PROMPT, [PreferencePair(query, *scored)], 200)
    assert (pair.chosen[-1], pair.rejected[-1], dropped) == (end, end, 0)
    reward_model = new_reward_model(student.folder).eval()
    torch.nn.init.normal_(reward_model.model.score.weight, generator=torch.Generator().manual_seed(0))
    read = LearnedReward(reward_model, tokenizer, PROMPT)([query, query], [right, other]).total
    with torch.no_grad():
        torch.testing.assert_close(read, reward_model(collate_pairs([pair]).responses))


def test_plain_transformers_stop_where_the_student_was_taught_to_end(student):
    tokenizer, model = load_tokenizer(student.folder), AutoModelForCausalLM.from_pretrained(student.folder)
    (prompt,) = PROMPT.encode(QUERIES[:1], tokenizer)
    (row,) = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24).tolist()
    assert row[len(prompt) :] == PROMPT.encode_responses([TAUGHT["short"]], [True], tokenizer)[0]


def test_a_trained_model_lies_beside_a_tokenizer_that_reads_all_text(student):
    tokenizer = load_tokenizer(student.folder)
    assert tokenizer.decode(tokenizer("4!", add_special_tokens=False)["input_ids"], skip_special_tokens=True) == "4!"
