"""A prompt that compares two responses."""

from rkd.data.judge_prompts import ComparePrompt

TEMPLATE = "{question}\n<response>\n{first}\n</response>\n<response>\n{second}\n</response>\nBetter:"
PROMPT = ComparePrompt(template=TEMPLATE)
