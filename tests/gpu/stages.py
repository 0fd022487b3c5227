"""A small job of each stage in bfloat16, on one device, as a job of `run.py` makes it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from rkd.data.judge_prompts import JudgePrompt
from rkd.generation.local import LocalGenerator, open_generator
from rkd.judges.single_token import LocalYesNo
from rkd.models.loading import ModelOptions, load_causal_lm, load_tokenizer
from rkd.protocols import Sampling
from rkd.records import Checkpoint, PreferencePair, Query, Response, ScoredResponse
from rkd.rl.advantages import GAE, AdvantageEstimator, GroupRelative
from rkd.rl.kl_controller import FixedKL
from rkd.rl.reward_mix import Term
from rkd.rl.rewards import ConsistencyCheck, JudgedReward, learned_reward
from rkd.rl.settings import KLPenalty, Optimisation, Rollouts
from rkd.rl.stage import RL, RLInputs
from rkd.stages.reward_model import PairSets, RewardModelTraining
from rkd.stages.sft import SFT
from rkd.store.partial_results import PartialResults
from rkd.training.checkpointing import HISTORY_FILE
from rkd.training.stage import TrainingContext
from rkd.training.trainer import Training
from tests.gpu.comparisons import Clock, Peak, judged
from tests.gpu.world import PROMPT, Size, questions

MAX_TOKENS = 512
FIRST_RATIO = 0.05  # how far the mean ratio of the first update may be from 1, by rounding in bfloat16


@dataclass
class Jobs:
    """The jobs of one student, each in the folder of what it makes; a later one uses what earlier ones made.

    Args:
        student: the folder that all starts from.
        folder: where the jobs write.
        sampled: the student's responses, once `student_samples` has drawn them.
    """

    student: Path
    folder: Path
    size: Size
    device: torch.device
    sampled: list[list[Response]] = field(default_factory=list)

    @property
    def all(self) -> dict[str, Callable[[], dict[str, float]]]:
        """The jobs in their order; each returns its figures."""
        return {
            "SFT": self.sft,
            "student samples": self.student_samples,
            "reward model": self.reward_model,
            "PPO": self.ppo,
            "GRPO": self.grpo,
            "judge": self.judge,
        }

    @property
    def options(self) -> ModelOptions:
        return ModelOptions(dtype="bfloat16", device=str(self.device))

    def sft(self) -> dict[str, float]:
        """Two epochs on right responses."""
        examples = questions(self.size.batch * (self.size.steps + 1))
        clock, stage = (
            Clock(self.device),
            SFT(learning_rate=1e-4, epochs=2, batch_size=self.size.batch, max_tokens=MAX_TOKENS),
        )
        report = stage.fit(examples, self._context("sft", self.student, clock, validate=self._validate))
        return {"steps": report.steps, "seconds_per_step": median(clock.seconds)}

    def student_samples(self) -> dict[str, float]:
        """Responses of the tuned student."""
        generator = open_generator(self._made("sft"), PROMPT, "student", options=self.options)
        sampling = Sampling(1.0, self.size.samples, self.size.response_tokens)
        with Peak(self.device) as peak:
            self.sampled = generator.generate(self._queries, sampling, 0)
        tokens = sum(len(generator.tokenizer(one.text)["input_ids"]) for own in self.sampled for one in own)
        return {"responses": self.size.queries * self.size.samples, "tokens_per_second": tokens / peak.seconds}

    def reward_model(self) -> dict[str, float]:
        """An epoch on right responses over the student's."""
        pairs = [
            PreferencePair(
                query,
                ScoredResponse(Response(query.id, "teacher", 0, text, True), query.gold_answer, 1.0),
                ScoredResponse(own, None, 0.0),
            )
            for (query, text), of_query in zip(questions(self.size.queries), self.sampled, strict=True)
            for own in of_query
        ]
        stage = RewardModelTraining(
            learning_rate=1e-4, epochs=1, batch_size=self.size.batch, max_tokens=MAX_TOKENS, criterion="loss"
        )
        clock, held_out = Clock(self.device), len(pairs) // 4
        sets = PairSets(pairs[held_out:], pairs[:held_out])
        report = stage.fit(sets, self._context("reward_model", self._made("sft").folder, clock))
        return {"steps": report.steps, "seconds_per_step": median(clock.seconds), "auc": report.validation["auc"]}

    def ppo(self) -> dict[str, float]:
        """Rollouts under the reward model, with the check of Eq. 10."""
        learned = learned_reward(self.folder / "reward_model", PROMPT, self.options)
        labels = {query.id: query.gold_answer or "" for query in self._queries}
        return self._rl("ppo", GAE(), ConsistencyCheck(learned, labels), KLPenalty(controller=FixedKL(0.02)))

    def grpo(self) -> dict[str, float]:
        """Rollouts under the judge."""
        kl = KLPenalty(controller=FixedKL(0.02), place="loss", estimator="k3")
        return self._rl("grpo", GroupRelative(group_size=self.size.samples), JudgedReward(self._judge()), kl)

    def judge(self) -> dict[str, float]:
        """Verdicts on several responses to each question."""
        judge = self._judge()
        asked, answered = judged(self.size.queries, self.size.samples)
        judge.verdicts(asked[:1], answered[:1])
        with Peak(self.device) as peak:
            verdicts = judge.with_prompt(judge.prompt).verdicts(asked, answered)
        return {"verdicts": len(verdicts), "verdicts_per_second": len(verdicts) / peak.seconds}

    def _rl(self, name: str, advantages: AdvantageEstimator, reward: Any, kl: KLPenalty) -> dict[str, float]:
        size = self.size
        stage = RL(
            rollouts=Rollouts(
                episodes=size.rollouts * size.queries * size.samples,
                queries_per_rollout=size.queries,
                responses_per_query=size.samples,
                max_response_tokens=size.response_tokens,
            ),
            optimisation=Optimisation(learning_rate=1e-5, epochs_per_rollout=1, minibatches_per_epoch=1),
            kl=kl,
            advantages=advantages,
            rollouts_between_validations=size.rollouts,
        )
        clock, terms = Clock(self.device), [Term(name=name, weight=1.0, queries=self._queries, reward=reward)]
        context = self._context(name, self._made("sft").folder, clock, validate=self._validate)
        stage.fit(RLInputs(build_terms=lambda _: terms), context)
        rows = [row for row in _history(context.folder) if "ratio" in row]
        if not abs(rows[0]["ratio"] - 1) <= FIRST_RATIO:
            raise ValueError(
                f"the ratio of the first update is {rows[0]['ratio']:.4f} instead of 1: the log-probabilities of the "
                "rollout are not those of the training pass"
            )
        seconds = median(clock.seconds)
        tokens = median(row["response_tokens"] for row in rows) * size.queries * size.samples
        return {
            "rollouts": len(rows),
            "seconds_per_rollout": seconds,
            "tokens_per_second": tokens / seconds,
            "first_ratio": rows[0]["ratio"],
            "first_kl": rows[0]["kl"],
        }

    def _judge(self) -> LocalYesNo:
        lm = load_causal_lm(self.student, self.options, placed=True)
        return LocalYesNo(lm, load_tokenizer(self.student), JudgePrompt(is_chat=False))

    @property
    def _queries(self) -> list[Query]:
        return [query for query, _ in questions(self.size.queries)]

    def _made(self, name: str) -> Checkpoint:
        folder = self.folder / name
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"there is no model of the stage {name}, which failed before")
        return Checkpoint(folder, name)

    def _validate(self, lm: PreTrainedModel) -> float:
        """The share of responses that end by themselves, sampled as a validation does."""
        generator = LocalGenerator("student", lm, load_tokenizer(self.student), PROMPT)
        responses = generator.generate(self._queries[:4], Sampling(0.0, 1, self.size.response_tokens), 0)
        return sum(own.is_finished for (own,) in responses) / len(responses)

    def _context(self, name: str, start: Path, clock: Clock, **settings: Any) -> TrainingContext:
        folder = self.folder / name
        return TrainingContext(
            start=Checkpoint(start, name),
            prompt=PROMPT,
            training=Training(accelerator=self.device.type, precision="bf16-mixed", callbacks={"clock": lambda: clock}),
            logger=False,
            folder=folder,
            partial=PartialResults(folder.with_name(f".{name}.partial")),
            seed=0,
            options=self.options,
            **settings,
        )


def _history(folder: Path) -> Sequence[Mapping[str, float]]:
    return [json.loads(line) for line in (folder / HISTORY_FILE).read_text(encoding="utf-8").splitlines()]
