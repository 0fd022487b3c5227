"""What a job will cost, before it is started: the stages of the plan enter, tokens, GPU hours and a price leave.

`dry_run=true` prints this and loads no model. Every response is taken to be as long as its limit allows, and how many
there are is about what the mini world leaves of each stage. Hours follow from the floating-point operations of a
transformer, 2 for each weight and token that is read or written and 6 for one that is trained on (Kaplan et al. 2020,
arXiv:2001.08361), and from the shares of a GPU's peak that sampling and training reach.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rkd.endpoint_teacher import EndpointTeacher
from rkd.generation import LocalModel
from rkd.judge import NoJudge
from rkd.plan import STUDENT, Work, aligned, short_number
from rkd.prompts import PromptTemplate
from rkd.settings import ABOVE_0, NOT_NEGATIVE, SHARE, check_ranges
from rkd.stages import FEW_SHOT, TEACHER, Stages
from rkd.stored import StoredTeacher

READ, TRAINED = 2, 6  # floating-point operations for each weight and token
BYTES = 2  # of a weight in bfloat16
MEASURED_PROMPTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What the estimate rests on; prices are in one currency.

    Args:
        gpu_tflops: peak of one GPU in 10¹² operations a second.
        gpu_memory_gb: of one GPU, in 10⁹ bytes.
        sampling_share, training_share: of that peak, what sampling and training reach.
        gpu_hour_price: of one GPU.
        prompt_price, response_price: of an endpoint, for a million tokens read and written.
        characters_per_token: of prompts, which are not tokenized for an estimate.
    """

    gpu_tflops: float
    gpu_memory_gb: float
    sampling_share: float
    training_share: float
    gpu_hour_price: float
    prompt_price: float
    response_price: float
    characters_per_token: float

    def __post_init__(self) -> None:
        positive = dict.fromkeys(("gpu_tflops", "gpu_memory_gb", "characters_per_token"), ABOVE_0)
        prices = dict.fromkeys(("gpu_hour_price", "prompt_price", "response_price"), NOT_NEGATIVE)
        shares = dict.fromkeys(("sampling_share", "training_share"), SHARE)
        check_ranges("bill", self, positive | prices | shares)

    def lines(self, s: Stages, work: Sequence[Work]) -> list[str]:
        """The bill of a job, to be printed."""
        entries = [self._entry(s, one) for one in work]
        rows = [("stage", "size, about", "tokens read", "written", "trained on", "GPU hours")]
        for one, entry in zip(work, entries, strict=True):
            tokens = map(short_number, (entry.read, entry.written, entry.trained))
            rows.append((one.stage, one.amount, *tokens, f"{entry.hours:.2f}"))
        hours = sum(entry.hours for entry in entries)
        rows.append(("all", "", "", "", "", f"{hours:.2f}"))
        return [*aligned(rows, left=2), "", *self._totals(s, entries), *self._assumptions(hours)]

    def _entry(self, s: Stages, work: Work) -> "Entry":
        prompt = self._prompt_tokens(s, work.model)
        read, written = work.queries * prompt, work.sampled * work.max_response_tokens
        trained = work.trained * (prompt / work.group_size + work.max_response_tokens)
        weights = _weights(s, work.model)
        sampling = READ * weights * (read + written) / self._rate(self.sampling_share)
        training = TRAINED * weights * trained / self._rate(self.training_share)
        role = TEACHER if work.model == TEACHER else STUDENT
        return Entry(role, round(read), round(written), round(trained), (sampling + training) / 3600)

    def _rate(self, share: float) -> float:
        """Operations a second."""
        return self.gpu_tflops * 1e12 * share

    def _prompt_tokens(self, s: Stages, model: str) -> float:
        """Tokens of a prompt, on average over some queries."""
        prompt: PromptTemplate = {TEACHER: s.teacher.prompt, FEW_SHOT: s.student.prompt, STUDENT: s.zero_shot}[model]
        queries = s.dataset.training_queries()[:MEASURED_PROMPTS]
        return sum(len(prompt.render(query)) for query in queries) / len(queries) / self.characters_per_token

    def _totals(self, s: Stages, entries: Sequence["Entry"]) -> list[str]:
        """What each role reads, writes and is trained on."""
        teacher, student = (_sum(role, entries) for role in (TEACHER, STUDENT))
        if isinstance(s.teacher, StoredTeacher):
            lines = [f"  teacher  {s.teacher.name}: its responses are recorded, nothing is asked"]
        elif isinstance(s.teacher, EndpointTeacher):
            lines = _of_endpoint(s.teacher, teacher)
        else:
            lines = [f"  teacher  {s.teacher.name}: {teacher}", *self._where_it_runs(s.teacher, teacher)]
        judge = "none in this row"
        if not isinstance(s.judge, NoJudge):
            judge = f"{s.judge.name}: not counted; a verdict reads a response once and writes a token"
        elif not s.dataset.is_verifiable:
            judge = "not counted: no stage has one yet that grades responses"
        return [*lines, f"  student  {s.student.name}: {student}", f"  judge    {judge}"]

    def _where_it_runs(self, teacher: LocalModel, total: "Entry") -> list[str]:
        gigabytes = BYTES * teacher.weights() / 1e9
        if gigabytes < self.gpu_memory_gb:
            return []
        gpus = math.ceil(gigabytes / (0.9 * self.gpu_memory_gb))  # a tenth is for what is not weights
        price = (total.read * self.prompt_price + total.written * self.response_price) / 1e6
        said = (
            f"needs an endpoint, or {gpus} GPUs (teacher.options.device=spread):",
            f"{gigabytes:,.0f} GB of weights do not fit into {self.gpu_memory_gb:,.0f}. An endpoint asks about",
            f"{price:,.0f} for these tokens (teacher=endpoint)",
        )
        return [" " * 11 + line for line in said]

    def _assumptions(self, hours: float) -> list[str]:
        return [
            f"  cost     {hours * self.gpu_hour_price:,.0f} at {self.gpu_hour_price:g} for a GPU hour",
            f"  assumed  GPUs of {self.gpu_tflops:g} TFLOPS, of which sampling reaches {self.sampling_share:.0%} and "
            f"training {self.training_share:.0%} (bill.*);",
            "           responses as long as their limit; how many queries keep a label, and how many texts and pairs",
            "           there are, as on mini_math; what another job has made already is free",
        ]


@dataclass(frozen=True, slots=True)
class Entry:
    """One stage of the bill, in tokens and GPU hours."""

    role: str
    read: int
    written: int
    trained: int
    hours: float

    def __str__(self) -> str:
        tokens = f"{short_number(self.read)} tokens read, {short_number(self.written)} written"
        tokens += f", {short_number(self.trained)} trained on" if self.trained else ""
        return f"{tokens}; {self.hours:.2f} GPU hours"


def _sum(role: str, entries: Sequence[Entry]) -> Entry:
    own = [entry for entry in entries if entry.role == role]
    return Entry(role, *(sum(getattr(one, name) for one in own) for name in ("read", "written", "trained", "hours")))


def _of_endpoint(teacher: EndpointTeacher, total: Entry) -> list[str]:
    """What a teacher behind a server is asked, and what that costs by the server's own prices."""
    server = teacher.server
    price = (total.read * server.prompt_price + total.written * server.response_price) / 1e6
    asked = f"{short_number(total.read)} tokens read, {short_number(total.written)} written"
    limits = {"server.budget_cost": server.budget_cost, "server.budget_tokens": server.budget_tokens}
    said = [f"{name}={limit:,}" for name, limit in limits.items() if limit is not None]
    return [
        f"  teacher  {teacher.name}: {asked}, no GPU hours here",
        f"           {price:,.2f} at the prices of {server.base_url}; {', '.join(said) or 'no budget is set'}",
    ]


def _weights(s: Stages, model: str) -> int:
    """How many weights work here; a teacher behind a server has none."""
    if model == TEACHER and isinstance(s.teacher, EndpointTeacher):
        return 0
    return (s.teacher if model == TEACHER else s.student).weights()
