r"""The grammar of a stated letter: the text behind "The answer is" enters, the letter of an option leaves.

    statement = [lead], letter, tail
    lead      = words such as "option" or "closest to"
    letter    = "(C)" | "C", before the end, a mark, an explanation or, behind "C." or "C:", the text of the option
    tail      = the rest of the sentence

The text of an option may come first: "E. coli bacteria, which is (C)".

A bare letter that begins a sentence, a name or a formula is none: "A lot of work", "E. coli", "F = ma", "I think". A
tail that names another option states several: "(A) or (B)", "A, B". It may name others in an explanation: "(A), not
(B)", "(D), since both (A) and (B) are right".
"""

import re
from dataclasses import dataclass

from rkd.data.number_grammar import plain

LETTERS = "ABCDEFGHIJ"  # of options; MMLU-Pro has up to ten


@dataclass(frozen=True, slots=True)
class LetterStatement:
    """What a text states.

    Args:
        named: the letters that it states, in order: one, several, or none.
    """

    named: str = ""

    @property
    def letter(self) -> str | None:
        """The letter, if it is the only one."""
        return self.named if len(self.named) == 1 else None

    @property
    def has_several(self) -> bool:
        """Whether it states several letters."""
        return len(self.named) > 1


_DECORATION = re.compile(r"[*_`$\"“”]+|\\[()\[\]]|</?[a-z_-]{2,16}>", re.IGNORECASE)
_LEAD = re.compile(
    r"(?:[\s:=~≈'‘]|\{(?! ?[A-Ja-j] ?\})|(?:(?:the )?(?:option|choice|letter|one|answer)|closest to|nearest to"
    r"|(?:most )?likely|probably|clearly|either|indeed|therefore|thus|just|simply|definitely|maybe|perhaps),? ?)*+",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"[(\[{<]{1,3} ?(?:(?:[Oo]ption|[Cc]hoice) )?([A-Ja-j]) ?[)\]}>]")
_BARE = re.compile(
    r"([A-J])(?=[\s)\]}>.]*$|[)\]}:]|\.(?:\s*\n|\s+(?![A-Z]\.)[^a-z\s])|[,;!](?:\s|$)|['’]\W*$|\s*\n|\s+[-—(\[]|\s*[/&]"
    r"|\s+(?:or|and|to|is|because|since|as|so|which|where|whereas|instead|rather than|if|when|therefore|thus"
    r"|hence|not)\b(?!-))"
    r"|([a-j])(?=[)\]}.]*\s*(?:$|\n))"
)
_I_AND_A_CLAUSE = re.compile(r"I(?:,?\s+(?!because\b|since\b|as\b|which\b|(?:or|and)\W+[A-J]\b(?! [a-z]))[a-z])")
_APPOSITION = re.compile(r"\b(?:which|that) is (?:(?:the )?(?:option|choice|answer|letter) )?(?=[(\[{])")
# What follows in the sentence explains the letter, and may name other options.
_EXPLANATION = re.compile(
    r"\b(?:because|since|as|so|given|due|therefore|thus|hence|which|while|where|whereas|not|rather|instead|unlike|over"
    r"|both|all|none|neither|if|when|for)\b",
    re.IGNORECASE,
)
_OTHER = r"(?:[(\[{]([A-J])[)\]}]|([B-HJ])(?![\w'’]|\.\s*[a-z]|\s*=)|([AI])(?![\w'’]|\s+[a-z]|\.\s*[a-z]|\s*=))"
_OR = r"(?i:or|alternatively|maybe|perhaps|possibly|otherwise|else)"
_JOINED = (
    rf"(?:\b(?:{_OR}|and|to|also)\b|[,;/|&+-])[\s,{{]*"
    rf"(?:(?:{_OR}|and|also|even|the|option|choice|answer|is|it|could|might|be):? ){{0,5}}+\s*{_OTHER}"
)
_ANOTHER = re.compile(rf"[(\[]([A-J])[)\]]|{_JOINED}")
_ALTERNATIVE = re.compile(rf"[,;.]\s*(?:but |and )?{_OR}\b[\s,]*(?:[a-z]+ ){{0,5}}+{_OTHER}")


def read_letter(text: str, following: str = "") -> LetterStatement:
    """The letter that a text states by the grammar.

    Args:
        following: the rest of the sentence behind a text in brackets or tags of its own, as \\boxed{C}.
    """
    text = _DECORATION.sub("", plain(text))
    lead = _LEAD.match(text)
    assert lead is not None
    found = _WRAPPED.match(text, lead.end()) or _BARE.match(text, lead.end())
    if found is None or _I_AND_A_CLAUSE.match(text, found.start()):
        apposition = _APPOSITION.search(text, lead.end())
        found = apposition and _WRAPPED.match(text, apposition.end())
    if found is None:
        return LetterStatement()
    letter = str(found[found.lastindex or 1]).upper()
    tail = text[found.end() :] + _DECORATION.sub("", plain(following))
    return LetterStatement("".join(dict.fromkeys([letter, *_others(tail)])))


def _others(tail: str) -> list[str]:
    """The letters that a tail states besides."""
    explanation = _EXPLANATION.search(tail)
    place = explanation.start() if explanation else len(tail)
    found = [*_ANOTHER.finditer(tail[:place]), *_ALTERNATIVE.finditer(tail[place:])]
    return [next(filter(None, one.groups())).upper() for one in found]
