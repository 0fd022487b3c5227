"""Reward knowledge distillation: teacher answers and teacher judgement, distilled into a small student."""
