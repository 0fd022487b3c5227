"""A judge behind a server that writes its verdict: queries and responses enter, the score read from its reply leaves.

Prompt and reading are those of `rkd.judges.written`. Any server will do: it need not list log-probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rkd.config import AT_LEAST_1, SHARE, check_ranges
from rkd.data.judge_prompts import JudgePrompt
from rkd.data.prompts import PromptTemplate
from rkd.generation.endpoint_client import Kept
from rkd.generation.endpoint_server import Advance, EndpointModel, no_advance
from rkd.generation.endpoint_teacher import EndpointGenerator
from rkd.judges.base import ConfiguredJudge
from rkd.judges.replies import ReadReply
from rkd.judges.written import Written, read_score
from rkd.store.partial_results import PartialResults


@dataclass(frozen=True, kw_only=True)
class EndpointWrittenJudge(EndpointModel, ConfiguredJudge):
    """The judge of a configuration; see `EndpointModel`.

    Args:
        max_reply_tokens: of a verdict, in tokens of its tokenizer; a verdict cut before its score is unreadable.
        read_reply, threshold: as in `rkd.judges.written.WrittenJudge`.
    """

    annotates: ClassVar[bool] = True

    prompt: JudgePrompt
    max_reply_tokens: int
    read_reply: ReadReply = read_score
    threshold: float = 0.5

    def __post_init__(self) -> None:
        EndpointModel.__post_init__(self)
        check_ranges("judge", self, {"max_reply_tokens": AT_LEAST_1, "threshold": SHARE})

    def fingerprint(self) -> Mapping[str, Any]:
        """Its part in a fingerprint: the model by its name, not the server."""
        return self.content()

    @property
    def reply_tokens(self) -> int:
        """See `ConfiguredJudge`."""
        return self.max_reply_tokens

    def content(self) -> dict[str, Any]:
        """What decides its verdicts."""
        own = {
            "prompt": self.prompt, "max_reply_tokens": self.max_reply_tokens,
            "read_reply": self.read_reply.__qualname__,
        }  # fmt: skip
        return {"model": EndpointModel.content(self), **own}

    def open(self, advance: Advance = no_advance, partial: PartialResults | None = None) -> Written:
        """The judge; the server's answers are kept in `partial`, if it is given."""
        question_alone = PromptTemplate(template="{question}")
        generator = EndpointGenerator(self.name, self, question_alone, None, Kept(self.server, partial), advance)
        return Written(generator, self.prompt, self.max_reply_tokens, advance, self.read_reply)
