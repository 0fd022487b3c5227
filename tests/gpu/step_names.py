"""The names of the steps of `steps.py`, whose import changes what torch knows of devices."""

NAMES = ("refusal", "sampling", "sft", "reward_model", "dpo", "ppo", "grpo", "judge")
