"""A judge that writes its verdict: queries and responses enter, a score read from what the model wrote leaves.

Many papers use it instead of the single token of `rkd.judges.single_token`. It is slower, since every verdict is
decoded, and not always readable. A verdict that cannot be read is None, never 0. Paper D's grader is such a judge: it
gives evidence first, and then a score from 0 to 5 (docs/method.md 2.2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from rkd.config import AT_LEAST_1, SHARE, check_ranges
from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import PromptTemplate
from rkd.generation.local import ModelFolder, open_generator
from rkd.judges.base import ConfiguredJudge, Remembered, Verdict
from rkd.judges.expected_score import ExpectedScore
from rkd.judges.replies import ReadReply, last_stated_score, score_or_verdict
from rkd.models.policy import Policy
from rkd.protocols import Sampling, TextGenerator
from rkd.records import Query, Response

LOWEST, HIGHEST = 1, 5
HIGHEST_GRADE = 5


def read_score(reply: str) -> float | None:
    """The score of a written verdict in [0, 1]: 1 to 5, or right and wrong as 1 and 0; None if it states none.

    `rkd.judges.replies` has the grammar. Different scores, a range and a contradiction state none.
    """
    score = score_or_verdict(reply, LOWEST, HIGHEST)
    return None if score is None else (score - LOWEST) / (HIGHEST - LOWEST)


def read_grade(reply: str) -> float | None:
    """The grade of a reply that gives evidence first, 0 to 5 as [0, 1]; None if no line states one.

    The last line with a grade counts: evidence may mention scores. None if that line's grade is outside the scale.
    """
    grade = last_stated_score(reply, 0, HIGHEST_GRADE)
    return None if grade is None else grade / HIGHEST_GRADE


@dataclass(frozen=True)
class Written:
    """A `Judge` over a model that decodes greedily, in memory or behind a server.

    Args:
        generator: its prompt is the judge's question alone.
        prompt: of the judge; its Yes and No words are not used here.
        max_reply_tokens: of a verdict; a verdict cut before its score is unreadable.
        advance: called with the number of responses whose verdict was known; the generator reports the others.
        read_reply: reads the score in a reply, in [0, 1]; None if it states none.
        expected: gives the expected score of a reply in place of the one that it states; None: the latter counts.
        unread: the first reply that stated no score, once there is one.
    """

    is_single_token: ClassVar[Literal[False]] = False

    generator: TextGenerator
    prompt: JudgePrompt
    max_reply_tokens: int
    advance: Callable[[int], None] = lambda _: None
    read_reply: ReadReply = read_score
    expected: ExpectedScore | None = None
    remembered: Remembered[Verdict | None] = field(default_factory=Remembered, repr=False)
    unread: list[str] = field(default_factory=list, repr=False)

    def judge(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[float | None]:
        """See `rkd.protocols.Judge`."""
        return [None if verdict is None else verdict.score for verdict in self.verdicts(queries, responses)]

    def verdicts(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[Verdict | None]:
        """The verdict on each response; `queries[i]` is the query of `responses[i]`. None where it is unreadable."""
        keys = [(query.question, response.text) for query, response in zip(queries, responses, strict=True)]

        def read(places: list[int]) -> list[Verdict | None]:
            self.advance(len(keys) - len(places))
            asked = [replace(queries[i], question=self.prompt.render(queries[i], keys[i][1])) for i in places]
            replies = self.generator.generate(asked, Sampling(0.0, 1, self.max_reply_tokens), seed=0)
            texts = [reply.text for (reply,) in replies]
            read_as = self.expected(asked, texts) if self.expected else [self.read_reply(text) for text in texts]
            # A refusal or a filtered text is no verdict, even if it begins like one.
            scores = [None if reply.withheld else score for (reply,), score in zip(replies, read_as, strict=True)]
            without = [reply for (reply,), score in zip(replies, scores, strict=True) if score is None]
            self.unread[:] = self.unread or [reply.withheld or reply.text for reply in without[:1]]
            return [None if score is None else Verdict(score) for score in scores]

        return self.remembered.recall(keys, read)


@dataclass(frozen=True, kw_only=True)
class WrittenJudge(ModelFolder, ConfiguredJudge):
    """The judge of a configuration that writes its verdict; see `Written`.

    Args:
        threshold: a response counts as right if its score is above; with a grader, only 5 is (docs/method.md 5.15).
        expected_score: a verdict is the mean over the judge's probabilities of all grades (docs/method.md 6.8); False:
            the grade that it writes.
    """

    annotates: ClassVar[bool] = True

    prompt: JudgePrompt
    max_reply_tokens: int
    read_reply: ReadReply = read_score
    threshold: float = 0.5
    expected_score: bool = False

    def __post_init__(self) -> None:
        check_ranges("judge", self, {"max_reply_tokens": AT_LEAST_1, "threshold": SHARE})

    @property
    def reply_tokens(self) -> int:
        """See `ConfiguredJudge`."""
        return self.max_reply_tokens

    def content(self) -> dict[str, Any]:
        """What decides its verdicts: the content of its model's folder, not the path."""
        return {
            "model": self.source(), "prompt": self.prompt, "max_reply_tokens": self.max_reply_tokens,
            "options": self.options, "read_reply": self.read_reply.__qualname__,
            **({"expected_score": True} if self.expected_score else {}),
        }  # fmt: skip

    def open(self, advance: Callable[[int], None] = lambda _: None) -> Written:
        """The judge, its model loaded."""
        asked = PromptTemplate(template="{question}", is_chat=self.prompt.is_chat, date=self.prompt.date)
        generator = open_generator(self.source(), asked, self.name, advance, self.options)
        expected = None
        if self.expected_score:
            policy = Policy(generator.model).eval()
            expected = ExpectedScore(policy, generator.tokenizer, asked, self.read_reply)
        return Written(generator, self.prompt, self.max_reply_tokens, advance, self.read_reply, expected)
