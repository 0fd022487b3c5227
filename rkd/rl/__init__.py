"""Reinforcement learning: rewards, rollouts, advantages, and the training of the policy."""
