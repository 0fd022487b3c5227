"""The cost of a job before it starts: the stages of the plan enter, tokens, GPU hours and a price leave.

`dry_run=true` prints this and loads no model. Every response is assumed to have its maximum length. The numbers of
responses follow the shares that each stage keeps in the mini world. Hours follow from the floating-point operations of
a transformer and the shares of a GPU's peak that sampling and training reach. Each weight takes 2 operations per token
that is read or written, and 6 per trained token (Kaplan et al. 2020, arXiv:2001.08361).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch

from rkd.config import ABOVE_0, NOT_NEGATIVE, SHARE, check_ranges
from rkd.data.judge_prompts import VerdictPrompt
from rkd.data.prompts import PromptTemplate
from rkd.generation.endpoint_server import EndpointModel
from rkd.generation.local import LocalModel
from rkd.jobs.work_plan import aligned
from rkd.judges.base import ModelJudge, asks_model
from rkd.models.cpu_workers import is_small
from rkd.models.low_precision import cpu_prefers_bfloat16
from rkd.pipeline.experiment import Stages
from rkd.work import ANNOTATOR, FEW_SHOT, JUDGE, STUDENT, TEACHER, Work, short_number

READ, TRAINED = 2, 6  # floating-point operations per weight and token
BYTES = 2  # per weight in bfloat16
MEASURED_PROMPTS = 200
MEASURED_ROWS, MEASURED_WIDTH, MEASURED_SECONDS = 1024, 1024, 0.5
LARGEST_ON_CPU = 2e9  # weights of a student that somebody may want to train on a CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """The assumptions of the estimate; all prices are in one currency.

    Args:
        gpu_tflops: peak of one GPU, in 10¹² operations per second.
        gpu_memory_gb: memory of one GPU, in 10⁹ bytes.
        sampling_share, training_share: shares of that peak in sampling and in training; judging counts as training.
        gpu_hour_price: price of one GPU for an hour.
        prompt_price, response_price: prices of an endpoint, for a million tokens read and written.
        characters_per_token: characters per token of prompts, which are not tokenized for an estimate.
        cpu_sampling_share, cpu_training_share: shares of what large matrix products reach on this processor.
    """

    gpu_tflops: float
    gpu_memory_gb: float
    sampling_share: float
    training_share: float
    gpu_hour_price: float
    prompt_price: float
    response_price: float
    characters_per_token: float
    cpu_sampling_share: float
    cpu_training_share: float

    def __post_init__(self) -> None:
        positive = dict.fromkeys(("gpu_tflops", "gpu_memory_gb", "characters_per_token"), ABOVE_0)
        prices = dict.fromkeys(("gpu_hour_price", "prompt_price", "response_price"), NOT_NEGATIVE)
        shares = dict.fromkeys((f"{of}{what}_share" for of in ("", "cpu_") for what in ("sampling", "training")), SHARE)
        check_ranges("cost_estimate", self, positive | prices | shares)

    def lines(self, s: Stages, work: Sequence[Work]) -> list[str]:
        """The printed lines of a job's estimate."""
        entries = [self._entry(s, one) for one in work]
        rows: list[tuple[str, ...]] = [("stage", "size, about", "tokens read", "written", "trained on", "GPU hours")]
        for one, entry in zip(work, entries, strict=True):
            tokens = map(short_number, (entry.read, entry.written, entry.trained))
            rows.append((one.stage, one.amount, *tokens, f"{self._hours(entry):.2f}"))
        hours = sum(map(self._hours, entries))
        rows.append(("all", "", "", "", "", f"{hours:.2f}"))
        return [
            *aligned(rows, left=2),
            "",
            *self._totals(s, entries),
            *self._here(s, entries),
            *self._assumptions(hours, is_recorded=s.teacher.is_recorded),
        ]

    def _entry(self, s: Stages, work: Work) -> "Entry":
        prompt = self._prompt_tokens(s, work.model)
        read, written = work.queries * prompt, work.sampled * work.max_response_tokens
        judged = 0.0
        if work.judged:
            judge = _judge_of(s, work.model)
            shared = work.group_size if judge.shares_prompts else 1
            judged = work.judged * (prompt / shared + work.max_response_tokens)
            written += work.judged * judge.reply_tokens
        trained = work.trained * (prompt / work.group_size + work.max_response_tokens)
        weights = _weights(s, work.model)
        sampling = READ * weights * (read + written)
        # A judge's forward passes read whole texts, as in training.
        passes = weights * (TRAINED * trained + READ * judged)
        role = work.model if work.model in (TEACHER, JUDGE, ANNOTATOR) else STUDENT
        return Entry(role, round(read + judged), round(written), round(trained), sampling, passes)

    def _hours(self, entry: "Entry") -> float:
        """GPU hours."""
        peak = self.gpu_tflops * 1e12
        return _hours(entry, peak * self.sampling_share, peak * self.training_share)

    def _here(self, s: Stages, entries: Sequence["Entry"]) -> list[str]:
        """A line with the hours on this processor, for models that it can train; a job measures small ones itself."""
        weights = s.student.weights()
        if torch.cuda.is_available() or is_small(weights) or weights > LARGEST_ON_CPU:
            return []
        name, peak = _speed_of_products(weights)
        hours = sum(_hours(one, peak * self.cpu_sampling_share, peak * self.cpu_training_share) for one in entries)
        cores = torch.get_num_threads()
        said = f"products of matrices reach {peak / 1e12:#.3g} TFLOPS in {name},"
        return [
            f"  here     about {hours:,.1f} hours on {cores} core{'s' * (cores > 1)}: {said}",
            f"           of which sampling reaches {self.cpu_sampling_share:.0%}, training "
            f"{self.cpu_training_share:.0%}",
        ]

    def _prompt_tokens(self, s: Stages, model: str) -> float:
        """Mean number of tokens of a prompt, over some queries."""
        if model in (JUDGE, ANNOTATOR):
            prompt: PromptTemplate | VerdictPrompt | None = _judge_of(s, model).prompt
        else:
            prompt = {TEACHER: s.teacher.prompt, FEW_SHOT: s.student.prompt, STUDENT: s.zero_shot}[model]
        assert prompt is not None  # only recorded responses have none, and they are not sampled
        response = () if isinstance(prompt, PromptTemplate) else ("",)  # the limit counts its tokens
        queries = s.dataset.training_queries()
        if model == ANNOTATOR:  # its prompt holds a reference, which only tests have
            queries = next(iter(s.dataset.test_sets().values()))
        queries = queries[:MEASURED_PROMPTS]
        return sum(len(prompt.render(query, *response)) for query in queries) / len(queries) / self.characters_per_token

    def _totals(self, s: Stages, entries: Sequence["Entry"]) -> list[str]:
        """Lines with the tokens that each role reads, writes and is trained on."""
        teacher, student, judge, annotator = (_sum(role, entries) for role in (TEACHER, STUDENT, JUDGE, ANNOTATOR))
        if s.teacher.is_recorded:
            lines = [f"  teacher  {s.teacher.name}: its responses are recorded, nothing is asked"]
        else:
            lines = self._of_model(TEACHER, s.teacher, teacher)
        lines.append(f"  student  {s.student.name}: {self._said(student)}")
        if asks_model(s.judge):
            lines += self._of_model(JUDGE, s.judge, judge)
        else:
            lines.append(f"  judge    {s.judge.without_model}")
        return (
            lines
            if s.dataset.is_verifiable
            else [*lines, *self._of_model(ANNOTATOR, _judge_of(s, ANNOTATOR), annotator)]
        )

    def _of_model(self, role: str, model: LocalModel | EndpointModel | ModelJudge, total: "Entry") -> list[str]:
        """Lines with the tokens that a teacher or judge reads and writes, and the machine it runs on."""
        if _is_endpoint(model):
            return _of_endpoint(role, model, total)
        return [f"  {role + ' ':<9}{model.name}: {self._said(total)}", *self._where_it_runs(role, model, total)]

    def _said(self, total: "Entry") -> str:
        return f"{total}; {self._hours(total):.2f} GPU hours"

    def _where_it_runs(self, role: str, model: LocalModel | EndpointModel | ModelJudge, total: "Entry") -> list[str]:
        gigabytes = BYTES * model.weights() / 1e9
        if gigabytes < self.gpu_memory_gb:
            return []
        gpus = math.ceil(gigabytes / (0.9 * self.gpu_memory_gb))  # a tenth is left for other data than weights
        price = (total.read * self.prompt_price + total.written * self.response_price) / 1e6
        said = (
            f"needs an endpoint, or {gpus} GPUs ({role}.options.device=spread):",
            f"{gigabytes:,.0f} GB of weights do not fit into {self.gpu_memory_gb:,.0f}. An endpoint asks about",
            f"{price:,.0f} for these tokens ({role}=endpoint)",
        )
        return [" " * 11 + line for line in said]

    def _assumptions(self, hours: float, *, is_recorded: bool) -> list[str]:
        unknown = "balanced queries and pairs" if is_recorded else "queries keep a label, and how many texts and pairs"
        return [
            f"  cost     {hours * self.gpu_hour_price:,.0f} at {self.gpu_hour_price:g} for a GPU hour",
            f"  assumed  GPUs of {self.gpu_tflops:g} TFLOPS, of which sampling reaches {self.sampling_share:.0%} and "
            f"training and judging {self.training_share:.0%} (cost_estimate.*);",
            f"           responses as long as their limit; how many {unknown}",
            "           there are, as on mini_math; what another job has made already is free",
        ]


@dataclass(frozen=True, slots=True)
class Entry:
    """One stage of the estimate, in tokens, and in floating-point operations of sampling and of passes."""

    role: str
    read: int
    written: int
    trained: int
    sampling: float
    passes: float

    def __str__(self) -> str:
        tokens = f"{short_number(self.read)} tokens read, {short_number(self.written)} written"
        tokens += f", {short_number(self.trained)} trained on" if self.trained else ""
        return tokens


def _hours(entry: Entry, sampling_rate: float, passes_rate: float) -> float:
    """Hours at so many operations a second."""
    return (entry.sampling / sampling_rate + entry.passes / passes_rate) / 3600


def _speed_of_products(weights: int) -> tuple[str, float]:
    """The format in which a model of so many weights is trained here, and operations a second of products in it.

    Seconds are those of the processor, for each thread: what other processes use at the moment does not count.
    """
    dtype, name = (torch.bfloat16, "bfloat16") if cpu_prefers_bfloat16(weights) else (torch.float32, "float32")
    rows, matrix = torch.ones(MEASURED_ROWS, MEASURED_WIDTH, dtype=dtype), torch.ones(MEASURED_WIDTH, 2048, dtype=dtype)
    rows @ matrix  # a warm-up
    begun, products, threads = time.process_time(), 0, torch.get_num_threads()
    while (seconds := (time.process_time() - begun) / threads) < MEASURED_SECONDS:
        rows @ matrix
        products += 1
    return name, 2 * rows.numel() * matrix.shape[1] * products / seconds


def _sum(role: str, entries: Sequence[Entry]) -> Entry:
    own = [entry for entry in entries if entry.role == role]
    return Entry(
        role, *(sum(getattr(one, name) for one in own) for name in ("read", "written", "trained", "sampling", "passes"))
    )


def _of_endpoint(role: str, model: EndpointModel, total: Entry) -> list[str]:
    """Lines with the tokens of a teacher or judge behind a server, and their price by the server's own prices."""
    server = model.server
    price = (total.read * server.prompt_price + total.written * server.response_price) / 1e6
    asked = f"{short_number(total.read)} tokens read, {short_number(total.written)} written"
    limits = {"server.budget_cost": server.budget_cost, "server.budget_tokens": server.budget_tokens}
    said = [f"{name}={limit:,}" for name, limit in limits.items() if limit is not None]
    return [
        f"  {role + ' ':<9}{model.name}: {asked}, no GPU hours here",
        f"           {price:,.2f} at the prices of {server.base_url}; {', '.join(said) or 'no budget is set'}",
    ]


def _weights(s: Stages, model: str) -> int:
    """Number of weights on this machine; 0 for a model behind a server."""
    if model in (JUDGE, ANNOTATOR):
        return _judge_of(s, model).weights()
    if model != TEACHER:
        return s.student.weights()
    assert not s.teacher.is_recorded  # recorded responses take no work
    return s.teacher.weights()


def _judge_of(s: Stages, role: str) -> ModelJudge:
    """The judge, or the annotator, that has work to do."""
    judge = s.judge if role == JUDGE else s.evaluation.annotator
    assert asks_model(judge)
    return judge


def _is_endpoint(model: LocalModel | EndpointModel | ModelJudge) -> TypeGuard[EndpointModel]:
    return model.is_remote
