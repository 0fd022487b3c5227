"""The method's other stages: teacher, labels, SFT, student samples, pairs, DPO, reward model."""
