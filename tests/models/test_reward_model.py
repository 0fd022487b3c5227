"""Reward models: where a reward is read, and what is saved."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rkd.errors import ModelError
from rkd.models.batches import collate
from rkd.models.reward_model import RewardModel, load_reward_model, new_reward_model
from tests.support.float64_models import (
    PAD,
    PROMPTS,
    RESPONSES,
    Build,
    both_reward_models,
    close,
    llama,
    llama_reward_model,
    of_family,
)
from tests.support.model_families import of_settings


@both_reward_models
def test_a_reward_is_read_at_the_last_response_token_and_not_at_padding(build: Build):
    model = build()
    rewards = RewardModel(model)(collate(PROMPTS, RESPONSES, PAD))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        # Transformers reads its score at the last token of an unpadded sequence.
        close(rewards[row], model(input_ids=torch.tensor([prompt + response])).logits.item())


@both_reward_models
def test_a_mean_reward_is_that_of_the_head_on_all_response_tokens(build: Build):
    model = build()
    model.config.reward_pooling = "mean"
    rewards = RewardModel(model)(collate(PROMPTS, RESPONSES, PAD))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        states = model.base_model(torch.tensor([prompt + response])).last_hidden_state[:, len(prompt) :]
        close(rewards[row], model.score(states).mean().item())


@pytest.mark.parametrize("pooling", ["last", "mean"])
@both_reward_models
def test_what_stands_in_the_padding_does_not_matter_to_a_reward(build: Build, pooling: str):
    batch = collate(PROMPTS, RESPONSES, PAD)
    other = collate(PROMPTS, RESPONSES, 9)
    assert not torch.equal(batch.response_ids, other.response_ids)
    reward_model = RewardModel(build())
    reward_model.model.config.reward_pooling = pooling
    close(reward_model(other), reward_model(batch))


@both_reward_models
def test_responses_to_one_prompt_get_the_rewards_of_separate_prompts(build: Build):
    reward_model = RewardModel(build())
    shared = reward_model(collate(PROMPTS[:1], RESPONSES, PAD))
    close(shared, reward_model(collate(PROMPTS[:1] * 5, RESPONSES, PAD)))


def test_a_new_reward_model_gives_every_response_zero(tmp_path):
    llama().float().save_pretrained(tmp_path)
    assert (new_reward_model(tmp_path)(collate(PROMPTS, RESPONSES, PAD)) == 0).all()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_saved_reward_model_gives_the_same_rewards(tmp_path, pooling):
    reward_model = RewardModel(llama_reward_model().float())
    reward_model.model.config.reward_pooling = pooling
    reward_model.save_pretrained(tmp_path)
    batch = collate(PROMPTS, RESPONSES, PAD)
    close(load_reward_model(tmp_path).float()(batch), reward_model(batch))


@pytest.mark.parametrize("family", ["cohere", "granite"])
def test_a_family_without_a_classifier_is_refused(family: str, tmp_path):
    of_family(family).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"no sequence classifier of the family {family}"):
        new_reward_model(tmp_path)


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gpt_neox", "mistral", "mixtral", "opt", "qwen2", "qwen3"])
def test_rewards_are_those_of_the_classifiers_own_forward(family: str):
    model = of_settings(family, auto=AutoModelForSequenceClassification, num_labels=1)
    rewards = RewardModel(model)(collate(PROMPTS, RESPONSES, PAD))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        close(rewards[row], model(input_ids=torch.tensor([prompt + response])).logits.item(), 1e-5)
