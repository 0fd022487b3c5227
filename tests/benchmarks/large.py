"""A step of fine-tuning at the shape of SmolLM2-135M, ours against a plain loop, and the memory of both (Linux).

    python tests/benchmarks/large.py

A random Llama of 134.5 M weights, 16 rows of 85 to 120 tokens, bfloat16 mixed with float32 weights, gradients clipped.
`plain` is the loop that users of transformers write: rows padded to the longest, `model(..., labels=...).loss`, fused
AdamW. `plain_lean` computes the logits of response tokens only. `ours` is the stage SFT with all weights, `ours_lora`
with adapters. Each side runs in a process of its own, one after the other in turn; the first step is not counted. Peaks
are those of the whole process. Seconds of the processor, beside those of the clock, leave out what others use.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from common import LAYERS, Clock, random_smollm2, ratio, resident, smollm2_shape, write_result

ROWS, STEPS, ROUNDS, LEARNING_RATE = 16, 2, 3, 1e-5
PROMPT, RESPONSE = (50, 70), (35, 50)  # fewest and most tokens


def rows() -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses of random tokens."""
    draw = random.Random(0)

    def some(fewest: int, most: int) -> list[int]:
        return [draw.randrange(100, 40000) for _ in range(draw.randint(fewest, most))]

    return [some(*PROMPT) for _ in range(ROWS)], [some(*RESPONSE) for _ in range(ROWS)]


def plain(layers: int, clock: Clock, *, lean: bool = False) -> None:
    """Steps of a loop over transformers' own model."""
    import torch

    lm, (prompts, responses) = random_smollm2(layers).train(), rows()
    optimizer = torch.optim.AdamW(lm.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    width = max(len(a) + len(b) for a, b in zip(prompts, responses, strict=True))
    ids, labels = torch.full((ROWS, width), 2), torch.full((ROWS, width), -100)
    for row, (a, b) in enumerate(zip(prompts, responses, strict=True)):
        ids[row, : len(a) + len(b)] = torch.tensor(a + b)
        labels[row, len(a) : len(a) + len(b)] = torch.tensor(b)
    attended = (
        torch.arange(width) < torch.tensor([[len(a) + len(b)] for a, b in zip(prompts, responses, strict=True)])
    ) * 1
    clock.mark()
    for _ in range(STEPS + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if lean:
                states = lm.model(input_ids=ids, attention_mask=attended).last_hidden_state[:, :-1]
                counts = labels[:, 1:] != -100
                logits = lm.lm_head(states[counts]).float()
                loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][counts])
            else:
                loss = lm(input_ids=ids, attention_mask=attended, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.mark()


def ours(layers: int, clock: Clock, *, lora: bool = False) -> None:
    """Steps of the stage SFT, as a job of large models makes them."""
    from pytorch_lightning.callbacks import LambdaCallback
    from torch.utils.data import DataLoader

    from rkd.models.batches import collate
    from rkd.models.cpu_workers import cores
    from rkd.models.loading import ModelOptions
    from rkd.models.lora import LoRA
    from rkd.models.policy import Policy
    from rkd.stages.sft import SFT, SFTModule
    from rkd.training.trainer import Training

    settings = SFT(learning_rate=LEARNING_RATE, epochs=1, batch_size=ROWS, max_tokens=256)
    with cores(None, small_models=False), tempfile.TemporaryDirectory() as folder:
        lm = ModelOptions(lora=LoRA() if lora else None).prepare(random_smollm2(layers))
        trainer = Training(accelerator="cpu", precision="bf16-mixed").trainer(
            "sft", logger=False, folder=Path(folder), max_epochs=1, gradient_clip=1.0,
            callbacks=[LambdaCallback(on_train_start=clock.mark, on_train_batch_end=clock.mark)],
        )  # fmt: skip
        loader = DataLoader([collate(*rows())] * (STEPS + 1), batch_size=None)
        trainer.fit(SFTModule(Policy(lm), settings, None).train(), loader)


SIDES: dict[str, Callable[[int, Clock], None]] = {
    "plain": plain,
    "plain_lean": lambda layers, clock: plain(layers, clock, lean=True),
    "ours": ours,
    "ours_lora": lambda layers, clock: ours(layers, clock, lora=True),
}


def in_fresh_process(side: str, layers: int) -> dict[str, Any]:
    """What a side needs in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--layers", str(layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """All sides in turn, or the one that a parent process asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--layers", type=int, default=LAYERS)
    asked = parser.parse_args()
    if asked.side:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        clock = Clock()
        SIDES[asked.side](asked.layers, clock)
        fastest = {kind: min(steps) for kind, steps in clock.steps(warm_up=1).items()}
        print(json.dumps({**fastest, "peak_mb": resident("VmHWM") / 2**20}))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(ROUNDS):
        for side, own in found.items():
            own.append(in_fresh_process(side, asked.layers))
    measured = {side: {name: median(one[name] for one in own) for name in own[0]} for side, own in found.items()}
    times_faster = {
        kind: {
            f"{side} against {other}": ratio([one[kind] for one in found[side]], [one[kind] for one in found[other]])
            for side in ("ours", "ours_lora") for other in ("plain", "plain_lean")
        }
        for kind in ("seconds", "processor_seconds")
    }  # fmt: skip
    settings = {
        "shape": smollm2_shape(asked.layers), "rows": ROWS, "prompt_tokens": PROMPT,
        "response_tokens": RESPONSE, "steps": STEPS, "rounds": ROUNDS, "precision": "bf16-mixed",
    }  # fmt: skip
    write_result("large", settings, {"sides": measured, "times_faster": times_faster})


if __name__ == "__main__":
    main()
