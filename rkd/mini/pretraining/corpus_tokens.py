"""The text of pretraining: documents of `rkd.mini.corpus` enter, packed rows of weighted tokens leave.

A `Corpus` is drawn, tokenised and stored once for all models, as drawing takes as long as training. A model's mixture
of it is packed in whole documents: a part of a problem cannot be solved, only guessed.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rkd.data.judge_prompts import ComparePrompt, JudgePrompt
from rkd.data.prompts import PromptTemplate
from rkd.mini import corpus as mini_corpus
from rkd.mini.documents import Document
from rkd.mini.pretraining.sampled_documents import PretrainSamples
from rkd.mini.tokenizer import train_tokenizer
from rkd.models.batches import encode, encode_responses
from rkd.models.loading import load_tokenizer
from rkd.records import Query
from rkd.store.artifact_store import Artifact, Store
from rkd.store.fingerprint import digest_of_files
from rkd.store.partial_results import PartialResults

TOKENIZER_DOCUMENTS = 2000  # per kind; the merges hardly change with more
POOL_DOCUMENTS = 16  # from which the packer takes the one that fits best
ENCODED_AT_ONCE = 5000  # the tokenizer needs some 10 kB of memory per document
VERDICTS = ("judged", "judged_samples")  # the kinds of documents that end with Yes or No
OF_ONE_TOKEN = (*VERDICTS, "open_compared", "compared_samples")
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
WORLD_FILES = (
    "choice.py",
    "choice.yaml",
    "corpus.py",
    "documents.py",
    "equations.py",
    "families.yaml",
    "general.yaml",
    "instructions.py",
    "math.py",
    "mistakes.py",
    "open.py",
    "open.yaml",
    "scenes.py",
    "scenes.yaml",
    "short.py",
    "short.yaml",
    "tokenizer.py",
    "wording.py",
    "words.yaml",
)

Encoded = tuple[np.ndarray, np.ndarray]
"""The tokens of a document and the loss weight of each."""

Turn = tuple[str, str]
"""The part before a text (a question, or nothing) and the text; a document is one turn or several."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The documents that mini models are pretrained on, and their tokenizer.

    Args:
        documents_per_kind: number of each kind of `rkd.mini.corpus`; when a kind is used up, it is shuffled and reused.
        seed: seed of the documents.
        vocabulary_size: number of tokens of a tokenizer that is trained on these documents, at most 65,535.
        tokenizer_of: instead of that, the checkpoint whose tokenizer is used, for a model that continues from it.
        samples: documents of further kinds, on responses that models sample.
    """

    documents_per_kind: Mapping[str, int]
    seed: int
    vocabulary_size: int | None = None
    tokenizer_of: str | None = None
    samples: PretrainSamples | None = None

    def __post_init__(self) -> None:
        if (self.vocabulary_size is None) == (self.tokenizer_of is None):
            raise ValueError(
                f"corpus.vocabulary_size={self.vocabulary_size} and corpus.tokenizer_of={self.tokenizer_of}: give one "
                "of them, a new tokenizer's size or the checkpoint whose tokenizer to take, and null for the other."
            )
        if self.vocabulary_size is not None and not 258 <= self.vocabulary_size < 2**16:  # 256 bytes, padding, end
            raise ValueError(f"corpus.vocabulary_size={self.vocabulary_size}: must be in 258 to 65,535.")
        if not self.documents_per_kind or min(self.documents_per_kind.values()) < 1:
            raise ValueError(
                f"corpus.documents_per_kind={dict(self.documents_per_kind)}: give at least 1 of each kind."
            )

    def tokenized(
        self,
        store: Store,
        forms: "Forms",
        checkpoints: Path = CHECKPOINTS,
    ) -> Artifact:
        """A folder with the tokenizer and `<kind>.npz` for each kind, made once.

        Args:
            forms: the prompts that put questions and responses to the models.
            checkpoints: the folder with the model `tokenizer_of` and those of `samples`.

        Raises:
            FileNotFoundError: one of these models does not exist.
        """
        fingerprint = {"corpus": self, "forms": forms, "world": _world_digest()}
        if self.tokenizer_of is not None:
            fingerprint["tokenizer"] = digest_of_files([self._tokenizer_file(checkpoints)])
        if self.samples is not None:
            fingerprint["sampled"] = self.samples.digests(checkpoints)

        def make(folder: Path, _: PartialResults) -> None:
            texts = {kind: self._texts(kind, forms) for kind in self.documents_per_kind}
            if self.samples is not None:
                sampled = self.samples.documents(self.seed, forms.zero_shot, checkpoints)
                texts |= {kind: [_turns(document, forms) for document in own] for kind, own in sampled.items()}
            if self.tokenizer_of is not None:
                tokenizer = load_tokenizer(checkpoints / self.tokenizer_of)
            else:
                sample = ("".join(map("".join, turns)) for own in texts.values() for turns in own[:TOKENIZER_DOCUMENTS])
                assert self.vocabulary_size is not None
                tokenizer = train_tokenizer(sample, self.vocabulary_size)
            tokenizer.save_pretrained(folder)
            for kind, own in texts.items():
                documents, are_questions = _encoded(tokenizer, own)
                np.savez(
                    folder / f"{kind}.npz",
                    tokens=np.fromiter(itertools.chain.from_iterable(documents), np.uint16),
                    is_question=np.fromiter(itertools.chain.from_iterable(are_questions), bool),
                    lengths=np.array(list(map(len, documents))),
                )

        return store.get_or_make("pretrain_corpus", fingerprint, make)

    def _tokenizer_file(self, checkpoints: Path) -> Path:
        assert self.tokenizer_of is not None
        path = checkpoints / self.tokenizer_of / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"corpus.tokenizer_of={self.tokenizer_of}: there is no {path}. Make this model first: "
                f"`python -m rkd pretrain pretrain={self.tokenizer_of}`."
            )
        return path

    def _texts(self, kind: str, forms: "Forms") -> list[list[Turn]]:
        documents = itertools.islice(mini_corpus.stream({kind: 1.0}, self.seed), self.documents_per_kind[kind])
        return [_turns(document, forms) for document in documents]


@dataclass(frozen=True, kw_only=True)
class Forms:
    """The prompts for the part of a document before its text.

    Args:
        prompts: the prompts of questions, by dataset; their examples are left out.
        judge, rubric: the prompts for a response that is judged by one token, and for one that is graded.
        compare: the prompt for two responses.
    """

    prompts: Mapping[str, PromptTemplate] = field(hash=False)
    judge: JudgePrompt
    rubric: JudgePrompt
    compare: ComparePrompt

    @property
    def zero_shot(self) -> dict[str, PromptTemplate]:
        """The prompts without examples."""
        return {dataset: prompt.zero_shot() for dataset, prompt in self.prompts.items()}

    def fingerprint(self) -> dict[str, Any]:
        """The parts of the prompts that decide a text."""
        return {"prompts": self.zero_shot, "judge": self.judge, "rubric": self.rubric, "compare": self.compare}

    def render(self, document: Document) -> str:
        """The part before the document's text: nothing, its question, or its question and the judged response."""
        if document.question is None:
            return ""
        query = Query("", document.dataset, document.question, document.reference)
        if document.judged is None:
            return self.zero_shot[document.dataset].render(query)
        if document.reference is not None:
            return self.compare.render(query, document.judged)
        return (self.rubric if document.is_graded else self.judge).render(query, document.judged)


def _turns(document: Document, forms: Forms) -> list[Turn]:
    """The document's turns, separated by a blank line like the examples of a few-shot prompt."""
    own = (*document.before, document)
    return [(("\n\n" if place else "") + forms.render(turn), turn.text) for place, turn in enumerate(own)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWeights:
    """Loss weights of the tokens of a question, of text without a question and of a verdict; a response has 1."""

    question: float
    plain_text: float
    verdict: float


def load_documents(folder: Path, kind: str, weights: TokenWeights) -> list[Encoded]:
    """The documents of a kind in a tokenised corpus.

    Raises:
        ValueError: the corpus lacks this kind.
    """
    path = folder / f"{kind}.npz"
    if not path.is_file():
        present = ", ".join(sorted(file.stem for file in folder.glob("*.npz")))
        raise ValueError(
            f"pretrain.mixture names {kind!r}, the corpus holds {present}: add it to `corpus.documents_per_kind`."
        )
    with np.load(path, allow_pickle=False) as stored:
        tokens, lengths, is_question = stored["tokens"], stored["lengths"], stored["is_question"]
    text_weight = weights.verdict if kind in OF_ONE_TOKEN else 1.0 if is_question.any() else weights.plain_text
    ends = lengths.cumsum()
    token_weights = np.where(is_question, weights.question, text_weight).astype(np.float32)
    return list(zip(np.split(tokens, ends[:-1]), np.split(token_weights, ends[:-1]), strict=True))


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of whole documents: tokens (N, T + 1), and the loss weight of predicting each, 0 on padding."""

    tokens: Tensor
    weights: Tensor


def pack(
    documents: Mapping[str, Sequence[Encoded]],
    mixture: Mapping[str, float],
    *,
    rows: int,
    width: int,
    pad_id: int,
    seed: int,
) -> PackedRows:
    """Pack whole documents into rows of `width` tokens; `mixture` gives each kind's share of the tokens.

    The longest document that fits is taken next from a small pool, which leaves a few percent of padding.

    Args:
        documents: the documents by kind.

    Raises:
        ValueError: a document is longer than a row.
    """
    longest = max(len(tokens) for kind in mixture for tokens, _ in documents[kind])
    if longest > width:
        raise ValueError(
            f"a document has {longest} tokens, more than a row, and is never cut: set `pretrain.sequence_tokens` to "
            f"{longest - 1} or more."
        )
    rng = random.Random(seed)
    drawn = _draw(documents, mixture, rng)
    pool = [next(drawn) for _ in range(POOL_DOCUMENTS)]
    tokens = np.full((rows, width), pad_id, np.int32)
    weights = np.zeros((rows, width), np.float32)
    for row in range(rows):
        chosen: list[Encoded] = []
        room = width
        while fitting := [place for place, (own, _) in enumerate(pool) if len(own) <= room]:
            place = max(fitting, key=lambda place: len(pool[place][0]))
            room -= len(pool[place][0])
            chosen.append(pool[place])
            pool[place] = next(drawn)
        rng.shuffle(chosen)  # at use a prompt comes first, so documents of every length must occur there
        for matrix, parts in zip((tokens, weights), zip(*chosen, strict=True), strict=True):
            matrix[row, : width - room] = np.concatenate(parts)
    return PackedRows(torch.from_numpy(tokens), torch.from_numpy(weights))


def _encoded(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[Sequence[Turn]]
) -> tuple[list[list[int]], list[list[bool]]]:
    """The tokens of each document, with the end of sequence, and whether each belongs to a question."""
    tokens: list[list[int]] = []
    is_question: list[list[bool]] = []
    for start in range(0, len(documents), ENCODED_AT_ONCE):
        some = documents[start : start + ENCODED_AT_ONCE]
        questions, texts = zip(*itertools.chain.from_iterable(some), strict=True)
        is_last = [place == len(turns) - 1 for turns in some for place in range(len(turns))]
        encoded = zip(encode(tokenizer, questions), encode_responses(tokenizer, texts, is_last), strict=True)
        for turns in some:
            own = list(itertools.islice(encoded, len(turns)))
            tokens.append([token for question, text in own for token in question + text])
            is_question.append([flag for q, text in own for flag in [True] * len(q) + [False] * len(text)])
    return tokens, is_question


def _draw(
    documents: Mapping[str, Sequence[Encoded]], mixture: Mapping[str, float], rng: random.Random
) -> Iterator[Encoded]:
    """An endless stream of documents; each kind is shuffled again when it is used up."""
    orders: dict[str, list[int]] = {kind: [] for kind in mixture}
    kinds = list(mixture)
    # Shares count tokens, so a kind with long documents is drawn less often.
    chances = [mixture[kind] / float(np.mean([len(tokens) for tokens, _ in documents[kind]])) for kind in kinds]
    while True:
        kind = rng.choices(kinds, chances)[0]
        if not orders[kind]:
            orders[kind] = rng.sample(range(len(documents[kind])), len(documents[kind]))
        yield documents[kind][orders[kind].pop()]


def _world_digest() -> str:
    """Digest of the code and templates that make the text, since they decide the corpus."""
    files = (resources.files("rkd.mini").joinpath(name).read_bytes() for name in WORLD_FILES)
    return hashlib.sha256(b"\0".join(files)).hexdigest()[:16]
