"""Ours beside plain transformers on one device: equal numbers, tokens a second, peak memory."""

import gc
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pytorch_lightning import Callback
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from rkd.data.judge_prompts import JudgePrompt
from rkd.generation.local import LocalGenerator
from rkd.judges.single_token import LocalYesNo
from rkd.losses import sft_loss
from rkd.models.batches import ResponseBatch, collate, pad
from rkd.models.policy import Policy
from rkd.models.reward_model import RewardModel
from rkd.protocols import Sampling
from rkd.records import Query, Response
from rkd.stages.sft import SFT, SFTModule
from rkd.training.trainer import Training
from tests.gpu.world import PROMPT, Size, questions

GB = 1e9
EXACT = 1e-3  # nats, and relative to a gradient: float32 sums in another order differ by less
NEARLY_EQUAL = 1e-3  # logits: a greedy choice between two that differ by less may fall either way
BFLOAT16_RATIO = 2.0  # our error in bfloat16 against float32, over that of the model's own forward


@dataclass(frozen=True)
class Equality:
    """A difference between ours and plain transformers, and the largest that is right."""

    name: str
    difference: float
    at_most: float

    @property
    def holds(self) -> bool:
        """Whether the difference is small enough; NaN is not."""
        return self.difference <= self.at_most


def synchronized(device: torch.device) -> float:
    """The time in seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Peak:
    """Seconds in the block, and the device's peak memory in GB, all that lay there before included; None on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0
        self.gb: float | None = None

    def __enter__(self) -> "Peak":
        gc.collect()  # a trainer and its module hold each other
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        self.started = synchronized(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = synchronized(self.device) - self.started
        if self.device.type == "cuda":
            self.gb = torch.cuda.max_memory_allocated(self.device) / GB


class Clock(Callback):
    """The time after each batch of a training."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(synchronized(self.device))

    @property
    def seconds(self) -> list[float]:
        """The duration of each batch but the first."""
        return [after - before for before, after in itertools.pairwise(self.times)]


def some_batch(tokenizer: PreTrainedTokenizerBase, device: torch.device) -> ResponseBatch:
    """Four prompts with three responses each, of different lengths, some of which begin alike."""
    asked = questions(4)
    texts = [text[:length] for _, text in asked for length in (5, 20, len(text))]
    responses = PROMPT.encode_responses(texts, [False, False, True] * 4, tokenizer)
    return collate(PROMPT.encode([query for query, _ in asked], tokenizer), responses).to(device)


def plain_logprobs(lm: PreTrainedModel, batch: ResponseBatch) -> list[Tensor]:
    """log π of the response tokens of each row, by the model's own forward of that row alone."""
    found = []
    for row, response in zip(batch.rows(), batch.response_rows(), strict=True):
        ids = torch.tensor([row], device=lm.device)
        logprobs = lm(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        found.append(logprobs.gather(-1, ids[0, 1:, None])[-len(response) :, 0])
    return found


def our_logprobs(lm: PreTrainedModel, batch: ResponseBatch) -> list[Tensor]:
    """The same by `Policy`."""
    return [own[counts] for own, counts in zip(Policy(lm)(batch).logprobs, batch.response_mask, strict=True)]


def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """The absolute differences of all rows."""
    return (torch.cat(list(ours)).float() - torch.cat(list(theirs)).float()).abs()


def equalities(
    folder: Path, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int
) -> Iterator[Callable[[], Equality]]:
    """Each equality as a function that measures it; `lm` is in float32 on the device.

    Args:
        tokens: length of the greedy responses.
    """
    batch = some_batch(tokenizer, lm.device)
    yield lambda: _logprobs(lm, batch)
    yield lambda: _gradient(lm, batch)
    yield lambda: _in_bfloat16(lm, batch, mixed=True)
    yield lambda: _in_bfloat16(lm, batch, mixed=False)
    yield lambda: _greedy(lm, tokenizer, tokens)
    yield lambda: _rewards(folder, batch, lm.device)
    yield lambda: _verdicts(lm, tokenizer)


@torch.no_grad()
def _logprobs(lm: PreTrainedModel, batch: ResponseBatch) -> Equality:
    difference = apart(our_logprobs(lm, batch), plain_logprobs(lm, batch)).max()
    return Equality("log-probabilities and model(...), float32, nats", float(difference), EXACT)


def _gradient(lm: PreTrainedModel, batch: ResponseBatch) -> Equality:
    weights = list(lm.parameters())
    ours = torch.autograd.grad(sft_loss(Policy(lm)(batch).logprobs, batch.response_mask), weights)
    theirs = torch.autograd.grad(-torch.cat(plain_logprobs(lm, batch)).mean(), weights)
    norms = [torch.stack([part.norm() for part in own]).norm() for own in (_minus(ours, theirs), theirs)]
    return Equality("gradient of the SFT loss, float32, relative", float(norms[0] / norms[1]), EXACT)


def _minus(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[Tensor]:
    return [one - other for one, other in zip(ours, theirs, strict=True)]


@torch.no_grad()
def _in_bfloat16(lm: PreTrainedModel, batch: ResponseBatch, *, mixed: bool) -> Equality:
    """Our mean error against float32 over that of the model's own forward, both in bfloat16."""
    exact = plain_logprobs(lm, batch)
    before, kind = lm.dtype, lm.device.type
    try:
        with torch.autocast(kind, torch.bfloat16, enabled=mixed, cache_enabled=False):
            low = lm if mixed else lm.bfloat16()
            errors = [float(apart(found(low, batch), exact).mean()) for found in (our_logprobs, plain_logprobs)]
    finally:
        lm.to(before)
    how = "mixed" if mixed else "true"
    name = f"error of log-probabilities over that of model(...), bf16-{how}"
    return Equality(name, errors[0] / errors[1], BFLOAT16_RATIO)


@torch.no_grad()
def _greedy(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int) -> Equality:
    """How much likelier another token was, by the model's own forward, than one that was chosen greedily."""
    queries = [query for query, _ in questions(4)]
    generator = LocalGenerator("greedy", lm, tokenizer, PROMPT)
    batch = generator.sample(queries, Sampling(0.0, 1, tokens), 0)
    largest = 0.0
    for row, response in zip(batch.rows(), batch.response_rows(), strict=True):
        logits = lm(input_ids=torch.tensor([row], device=lm.device)).logits[0, -len(response) - 1 : -1].float()
        chosen = logits.gather(-1, torch.tensor(response, device=lm.device)[:, None])[:, 0]
        largest = max(largest, float((logits.amax(-1) - chosen).max()))
    return Equality("greedy choice and model(...), float32, logits", largest, NEARLY_EQUAL)


@torch.no_grad()
def _rewards(folder: Path, batch: ResponseBatch, device: torch.device) -> Equality:
    torch.manual_seed(0)  # of the new head
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    classifier.to(device).eval()
    classifier.config.pad_token_id = None  # so that its own forward reads the last token, whatever it is
    ours = RewardModel(classifier)(batch)
    theirs = torch.cat([classifier(input_ids=torch.tensor([row], device=device)).logits[0] for row in batch.rows()])
    return Equality("rewards and the classifier's own forward, float32", float((ours - theirs).abs().max()), EXACT)


@torch.no_grad()
def _verdicts(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Equality:
    judge = LocalYesNo(lm, tokenizer, JudgePrompt(is_chat=False))
    asked, answered = judged(3, 3)
    verdicts = judge.verdicts(asked, answered)
    yes, no = (judge.prompt.spellings(word, tokenizer) for word in (judge.prompt.yes_word, judge.prompt.no_word))
    differences = []
    rows = judge.prompt.encode(asked, [response.text for response in answered], tokenizer)
    for row, verdict in zip(rows, verdicts, strict=True):
        shares = lm(input_ids=torch.tensor([row], device=lm.device)).logits[0, -1].float().softmax(-1)
        score = shares[yes].sum() / (shares[yes].sum() + shares[no].sum())
        differences.append(abs(float(score) - verdict.score))
    return Equality("verdicts, read together, and model(...), float32", max(differences), EXACT)


def judged(queries: int, samples: int) -> tuple[list[Query], list[Response]]:
    """Questions, each as often as it has responses, and these, which differ."""
    asked, answered = [], []
    for query, text in questions(queries):
        for sample in range(samples):
            asked.append(query)
            other = text.replace(f" is {query.gold_answer}.", f" is {sample}.")
            answered.append(Response(query.id, "written", sample, other, True))
    return asked, answered


def in_turn(device: torch.device, sides: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, dict[str, Any]]:
    """Tokens a second and peak memory of each side, which returns its number of tokens; a first call is not counted."""
    found: dict[str, list[tuple[float, float | None]]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            with Peak(device) as peak:
                tokens = side()
            if turn:
                found[name].append((tokens / peak.seconds, peak.gb))
    return {
        name: {"tokens_per_second": median(speed for speed, _ in own), "peak_gb": own[-1][1]}
        for name, own in found.items()
    }


def sampling(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, size: Size) -> dict[str, dict[str, Any]]:
    """Sampling beside `generate`; a token counts up to the end of its response. `lm` is in bfloat16 on the device."""
    queries = [query for query, _ in questions(size.queries)]
    generator = LocalGenerator("sampled", lm, tokenizer, PROMPT)
    ids, mask = (tensor.to(lm.device) for tensor in pad(PROMPT.encode(queries, tokenizer), left=True))
    ends = torch.tensor(generator.eos_ids, device=lm.device)

    def ours() -> int:
        return generator.sample(queries, Sampling(1.0, size.samples, size.response_tokens), 0).weight

    @torch.inference_mode()
    def generate() -> int:
        torch.manual_seed(0)
        rows = lm.generate(
            input_ids=ids, attention_mask=mask.long(), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=size.samples, max_new_tokens=size.response_tokens, eos_token_id=ends.tolist(),
            pad_token_id=int(ends[0]),
        )[:, ids.shape[1] :]  # fmt: skip
        is_end = torch.isin(rows, ends)
        return int((is_end.cumsum(1) - is_end.long() == 0).sum())

    return in_turn(lm.device, {"ours": ours, "plain": generate}, size.rounds)


def training(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, size: Size) -> dict[str, dict[str, Any]]:
    """Steps of SFT beside a plain loop on the same rows, all in bf16-mixed; `lm` is in float32 on the device.

    Tokens are those of prompts and responses. Ours is trained by Lightning, as a job does; the plain loop pads the rows
    to the longest, and computes the loss of transformers.
    """
    device, asked = lm.device, questions(size.batch * (size.steps + 1))
    prompts = PROMPT.encode([query for query, _ in asked], tokenizer)
    responses = PROMPT.encode_responses([text for _, text in asked], [True] * len(asked), tokenizer)
    order = sorted(range(len(asked)), key=lambda place: len(prompts[place]) + len(responses[place]))
    batches = [order[start : start + size.batch] for start in range(0, len(order), size.batch)]
    tokens = median(sum(len(prompts[place]) + len(responses[place]) for place in batch) for batch in batches)

    def ours() -> list[float]:
        clock = Clock(device)
        settings = SFT(learning_rate=1e-5, epochs=1, batch_size=size.batch, max_tokens=4096)
        module = SFTModule(Policy(lm), settings, None).train()
        rows = [collate([prompts[at] for at in batch], [responses[at] for at in batch]) for batch in batches]
        with tempfile.TemporaryDirectory() as folder:
            trainer = Training(accelerator=device.type, precision="bf16-mixed").trainer(
                "sft", logger=False, folder=Path(folder), max_epochs=1, gradient_clip=1.0, callbacks=[clock],
                limit_val_batches=0,
            )  # fmt: skip
            trainer.fit(module, DataLoader(rows, batch_size=None))
        lm.to(device)  # Lightning leaves a module on the CPU
        return clock.seconds

    def plain() -> list[float]:
        optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-5, weight_decay=0.0)
        times = []
        for batch in batches:
            ids, mask = (own.to(device) for own in pad([prompts[at] + responses[at] for at in batch], left=False))
            labels = ids.masked_fill(~mask, -100)
            for row, at in zip(labels, batch, strict=True):
                row[: len(prompts[at])] = -100
            with torch.autocast(device.type, torch.bfloat16):
                loss = lm(input_ids=ids, attention_mask=mask.long(), labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            times.append(synchronized(device))
        return [after - before for before, after in itertools.pairwise(times)]

    found = {}
    for name, side in {"ours": ours, "plain": plain}.items():
        lm.zero_grad()
        with Peak(device) as peak:
            seconds = side()
        found[name] = {"tokens_per_second": tokens / median(seconds), "peak_gb": peak.gb}
    lm.zero_grad()
    return found
