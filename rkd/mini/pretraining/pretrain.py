"""Pretraining of the mini models: the tokenised corpus enters, the folder of a trained model leaves.

The mini models replace the published models of the papers; they are trained from random weights on generated text only.
Shapes: B rows of T + 1 tokens, of which T are predicted; V vocabulary.

    python -m rkd pretrain pretrain=mini_1          make a shipped model in rkd/mini/checkpoints again
    python -m rkd pretrain --help                   show the other models and how to see every setting
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import PromptTemplate
from rkd.mini.corpus import CHOICE_KINDS
from rkd.mini.pretraining.corpus_tokens import (
    CHECKPOINTS,
    VERDICTS,
    Forms,
    PackedRows,
    TokenWeights,
    load_documents,
    pack,
)
from rkd.mini.pretraining.muon import Muon
from rkd.mini.pretraining.quality import (
    JudgedResponse,
    answered_instructions,
    grading_quality,
    judging_accuracy,
    marking_quality,
    rubric_scores,
    sampled_responses,
    solving_accuracy,
    written_answers,
    written_responses,
)
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.store.artifact_store import Artifact, Store
from rkd.training.trainer import Training, learning_rate_factor, seeded


@dataclass(frozen=True, slots=True)
class PretrainReport:
    """The outcome of a fit; `tokens` includes padding, `loss` is the weighted mean of the last 100 steps, in nats."""

    parameters: int
    steps: int
    tokens: int
    seconds: float
    loss: float
    padded_fraction: float


class PretrainModule(LightningModule):
    """A causal language model, trained by the weighted likelihood of its tokens.

    Muon updates the matrices of the layers, AdamW the embedding and the norms, as in the source of
    `rkd.mini.pretraining.muon`.
    """

    def __init__(self, lm: PreTrainedModel, settings: "Pretrain") -> None:
        super().__init__()
        self.automatic_optimization = False
        self.lm = lm
        self.settings = settings
        self.losses: deque[float] = deque(maxlen=100)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        tokens, weights = batch
        logits = self.lm(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = weighted_token_loss(logits, tokens[:, 1:], weights[:, 1:])
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.settings.gradient_clip)
        optimizers, schedules = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizers, list)
        assert isinstance(schedules, list)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        self.losses.append(loss.item())
        self.log("train/loss", loss)
        self.log("train/learning_rate_factor", schedule.get_last_lr()[0] / schedule.base_lrs[0])

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LambdaLR]]:
        settings = self.settings
        embedding = self.lm.get_input_embeddings().weight
        hidden = [p for p in self.lm.parameters() if p.ndim == 2 and p is not embedding]
        others = [p for p in self.lm.parameters() if p.ndim != 2 or p is embedding]
        optimizers = [
            Muon(hidden, lr=settings.muon_learning_rate),
            torch.optim.AdamW(others, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        warmup_fraction = settings.warmup_steps / settings.steps

        def factor(step: int) -> float:
            final = settings.final_learning_rate_fraction
            return learning_rate_factor(step, settings.steps, warmup_fraction, final)

        return optimizers, [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """The pretraining of one mini model.

    Args:
        hidden_size, layers, heads: sizes of the Llama.
        tokens: total number of training tokens, padding included.
        mixture: share of the tokens for each kind of document.
        learning_rate: peak rate of AdamW, for the embedding and the norms.
        muon_learning_rate: peak rate of Muon, for the matrices of the layers.
        sequence_tokens: predictions in a row, T.
        batch_sequences: rows per optimiser step.
        warmup_steps: optimiser steps in which the rates rise to their peaks.
        final_learning_rate_fraction: the rates fall along a half cosine to this fraction of their peaks.
        gradient_clip: largest norm of the gradient.
        question_weight: loss weight of a question's tokens; a response's tokens have 1.
        text_weight: loss weight of the tokens of documents without a question.
        verdict_weight: loss weight of the judge's verdict, one token in a hundred of its document.
        seed: seed of the initial weights and of the packing.
        continue_from: the model in the same parent folder whose weights are the initial ones; None draws them.
    """

    hidden_size: int
    layers: int
    heads: int
    tokens: int
    mixture: Mapping[str, float] = field(hash=False)
    learning_rate: float
    muon_learning_rate: float
    sequence_tokens: int = 256
    batch_sequences: int = 16
    warmup_steps: int = 50
    final_learning_rate_fraction: float = 0.05
    gradient_clip: float = 1.0
    question_weight: float = 0.1
    text_weight: float = 0.5
    verdict_weight: float = 10.0
    seed: int = 0
    continue_from: str | None = None

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.heads):  # rotary embeddings rotate pairs of a head's components
            raise ValueError(f"pretrain.hidden_size={self.hidden_size}: must be a multiple of 2 · {self.heads} heads.")
        if self.steps < 1:
            raise ValueError(
                f"pretrain.tokens={self.tokens} is less than one step of {self.batch_sequences} × "
                f"{self.sequence_tokens} tokens: raise it, or lower `pretrain.batch_sequences`."
            )
        if not self.mixture or min(self.mixture.values()) <= 0:
            raise ValueError(f"pretrain.mixture={dict(self.mixture)}: every share must be above 0.")
        if not (self.learning_rate > 0 and self.muon_learning_rate > 0):
            raise ValueError(
                f"pretrain.learning_rate={self.learning_rate} and muon_learning_rate={self.muon_learning_rate} "
                "must be above 0."
            )

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.tokens // (self.batch_sequences * self.sequence_tokens)

    def fit(
        self, corpus: Artifact, *, training: Training, logger: Logger | Literal[False], folder: Path
    ) -> PretrainReport:
        """Train a model on the tokenised corpus, and write it (bfloat16) with its tokenizer to `folder`.

        Raises:
            FileNotFoundError: no model `continue_from` exists beside `folder`.
            ValueError: the corpus lacks a kind of the mixture, a document is longer than a row, or the model to
                continue from has another size or tokenizer.
        """
        tokenizer = PreTrainedTokenizerFast.from_pretrained(corpus.folder)
        rows = self._packed(corpus.folder, tokenizer.pad_token_id)
        with seeded(self.seed):
            module = PretrainModule(self._first_model(tokenizer, folder), self).train()
            trainer = training.trainer(
                "pretrain", logger=logger, folder=folder, max_epochs=1, shown_metrics=("train/loss",)
            )
            start = time.monotonic()
            trainer.fit(module, self._loader(rows))
            seconds = time.monotonic() - start
        if trainer.is_global_zero:
            module.lm.bfloat16().save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        steps = trainer.fit_loop.total_batch_idx + 1
        return PretrainReport(
            parameters=sum(parameter.numel() for parameter in module.lm.parameters()),
            steps=steps,
            tokens=steps * self.batch_sequences * self.sequence_tokens,
            seconds=seconds,
            loss=sum(module.losses) / len(module.losses),
            padded_fraction=float((rows.tokens == tokenizer.pad_token_id).float().mean()),
        )

    def _first_model(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> PreTrainedModel:
        if self.continue_from is None:
            return LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=self.hidden_size,
                    intermediate_size=int(self.hidden_size * 8 / 3) // 16 * 16,
                    num_hidden_layers=self.layers,
                    num_attention_heads=self.heads,
                    max_position_embeddings=1024,
                    initializer_range=0.04,
                    tie_word_embeddings=True,
                    bos_token_id=None,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            )
        start = folder.parent / self.continue_from
        if not (start / "config.json").is_file():
            raise FileNotFoundError(
                f"pretrain.continue_from={self.continue_from}: {start} holds no model. Make it first: "
                f"`python -m rkd pretrain pretrain={self.continue_from}`."
            )
        model: PreTrainedModel = load_causal_lm(start).float()
        shape = (model.config.hidden_size, model.config.num_hidden_layers, model.config.num_attention_heads)
        if shape != (self.hidden_size, self.layers, self.heads):
            raise ValueError(
                f"{start} has hidden_size, layers, heads {shape}, where pretrain.* says "
                f"{(self.hidden_size, self.layers, self.heads)}: continue from another model, or set these."
            )
        if load_tokenizer(start).get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"{start} has another tokenizer than this corpus, its tokens would change their meaning. Remake it "
                f"with the same `corpus.*`: `python -m rkd pretrain pretrain={self.continue_from}`."
            )
        return model

    def _packed(self, folder: Path, pad_id: int) -> PackedRows:
        weights = TokenWeights(question=self.question_weight, plain_text=self.text_weight, verdict=self.verdict_weight)
        documents = {kind: load_documents(folder, kind, weights) for kind in self.mixture}
        rows, width = self.steps * self.batch_sequences, self.sequence_tokens + 1
        return pack(documents, self.mixture, rows=rows, width=width, pad_id=pad_id, seed=self.seed)

    def _loader(self, rows: PackedRows) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(_RowBatches(rows, self.batch_sequences), batch_size=None, shuffle=False)


class _RowBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batches of rows: their tokens and weights."""

    def __init__(self, rows: PackedRows, size: int) -> None:
        self.batches = list(zip(rows.tokens.split(size), rows.weights.split(size), strict=True))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.batches[index]


def weighted_token_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of -log p(target), a scalar in nats: Σ w·(-log p) / Σ w over the batch.

    Args:
        logits: (B, T, V).
        targets: the tokens to predict, (B, T).
        weights: w, (B, T); 0 leaves a token out.
    """
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten().long(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def make_model(config: DictConfig) -> None:
    """Make one model, and print measurements of its quality."""
    transformers_logging.disable_progress_bar()
    stage, forms = (instantiate(config[key], _convert_="all") for key in ("pretrain", "forms"))
    folder = Path(config.checkpoints or CHECKPOINTS) / config.name
    print(f"{config.name}: {stage.steps} steps, {stage.tokens / 1e6:.1f}M tokens, to {folder}", flush=True)
    store = Store(Path(config.artifacts.root))
    corpus = instantiate(config.corpus).tokenized(store, forms, folder.parent)
    report = stage.fit(corpus, training=instantiate(config.trainer), logger=False, folder=folder)
    print(
        f"{config.name}: {report.parameters:,} parameters, {report.tokens:,} tokens ({report.padded_fraction:.1%} "
        f"padding) in {report.seconds:.0f} s, {report.tokens / report.seconds:,.0f} tokens/s, loss {report.loss:.3f}",
        flush=True,
    )
    kinds, problems = set(stage.mixture), config.validation_problems
    if kinds & set(VERDICTS):
        _print_verdicts(folder, forms.zero_shot["mini_math"], forms.judge, problems)
    elif "marked_samples" in kinds:
        _print_marks(folder, forms, problems)
    elif "graded_samples" in kinds:
        _print_grades(folder, forms, problems)
    else:
        accuracy = solving_accuracy(folder, forms.zero_shot["mini_math"], problems)
        print(f"{config.name}: solves {accuracy['all']:.1%} of {problems} validation problems")
    if kinds & set(CHOICE_KINDS):
        _print_choices(folder, forms.prompts["mini_choice"], problems)
    if kinds & {"open_task", "open_sloppy"}:
        _print_open_ended(folder, forms.prompts["mini_open"], problems)


def _print_choices(folder: Path, prompt: PromptTemplate, problems: int) -> None:
    """Print how often the model chooses the right option, without and with the prompt's examples."""
    for form, asked in (("without examples", prompt.zero_shot()), ("with examples", prompt)):
        accuracy = solving_accuracy(folder, asked, problems, "mini_choice")
        shares = ", ".join(f"{category} {share:.1%}" for category, share in accuracy.items())
        print(f"{folder.name}: mini_choice {form}, {problems} validation problems: {shares}")


def _print_grades(grader: Path, forms: Forms, problems: int) -> None:
    """Print how well the grader grades and compares generated responses, and samples of the models beside it."""
    asked = {"written responses": written_answers(problems)}
    for folder in sorted(grader.parent.glob("*_open")):
        asked[f"samples of {folder.name}"] = answered_instructions(folder, forms.zero_shot["mini_open"], problems)
    for name, answered in asked.items():
        print(f"{grader.name}: {name}: {grading_quality(grader, forms, answered)}")


def _print_open_ended(folder: Path, prompt: PromptTemplate, problems: int) -> None:
    """Print the scores of its responses to instructions, without and with the prompt's examples."""
    for form, asked in (("without examples", prompt.zero_shot()), ("with examples", prompt)):
        print(f"{folder.name}: mini_open {form}, {problems} instructions: {rubric_scores(folder, asked, problems)}")


def _print_marks(judge: Path, forms: Forms, problems: int) -> None:
    """Print how well a rubric judge marks generated responses, and samples of the models beside it."""
    for name, responses in _to_judge(judge, forms.zero_shot["mini_math"], problems).items():
        accuracy, unreadable = marking_quality(judge, forms, responses)
        right = sum(response.is_right for response in responses) / len(responses)
        print(
            f"{judge.name}: {name} ({right:.1%} right): {accuracy:.1%} are rightly given 5 or less, "
            f"{unreadable:.1%} of the grades are unreadable"
        )


def _to_judge(judge: Path, prompt: PromptTemplate, problems: int) -> dict[str, list[JudgedResponse]]:
    """Responses to validation problems, by their source."""
    asked = {"written responses": written_responses(problems)}
    for folder in sorted(judge.parent.iterdir()):
        if folder != judge and (folder / "config.json").is_file():
            asked[f"samples of {folder.name}"] = sampled_responses(folder, prompt, problems, temperature=0.7)
    return asked


def _print_verdicts(judge: Path, prompt: PromptTemplate, judge_prompt: JudgePrompt, problems: int) -> None:
    """Print how well the judge judges generated responses, and samples of the models beside it."""
    for name, responses in _to_judge(judge, prompt, problems).items():
        accuracy, auc = judging_accuracy(judge, judge_prompt, responses)
        right = sum(response.is_right for response in responses) / len(responses)
        print(f"{judge.name}: {name} ({right:.1%} right): {accuracy:.1%} of the verdicts are right, AUC {auc:.3f}")
