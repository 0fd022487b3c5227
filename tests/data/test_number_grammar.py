"""What is read is stated whole: texts composed of markers, numbers and what may stand around them."""

import re
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rkd.data.answers import extract_answer, names_several_answers
from rkd.data.number_grammar import plain, read_statement

# What states an answer, around {}; all of them allow a text with units.
MARKERS = [
    "The answer is {}.",
    "The answer is {}",
    "So the final answer, in km, is {}.",
    "The answer to the question is {}.",
    "The answer for the whole week is {}.\nThat is all.",
    "**Answer: {}**",
    "**Answer:** {}",
    "Answer: {}\r\n",
    "## Final Answer\r\n\r\n{}\r\n",
    "### Answer\n{}\n",
    "#### {}",
    "#### **{}**",
    "The answer is **{}**.",
    "The answer is _{}_.",
    "The answer is `{}`.",
    "The answer is $\\boxed{{{}}}$.",
    "\\boxed{{{}}}",
    "\\fbox{{ {} }}",
    "<answer>{}</answer>",
    "<answer>\n{}\n</answer>\n",
    '{{"answer": "{}"}}',
    "{{'answer': '{}'}}",
    "It may be 98 or 99. The answer is {}.",
    "The answer is {}.\n#### 2. Verification\nIt is right.",
]
LEADS = [
    "",
    "about ",
    "exactly ",
    "$",
    "€ ",
    "x = ",
    "Total cost = ",
    "a total of ",
    "3 × 4 = ",
    "5 apples + 7 apples = ",
]
# What may follow without changing what is stated.
UNITS = [
    "",
    " apples",
    "%",
    " km/h",
    " m^2",
    " €",
    "°",
    " dollars each",
    " per day",
    " red or blue marbles",
    "-inch boards",
]
TAILS = [
    "",
    " (5 + 7)",
    ", because 5 + 7 is 12",
    ", since there are 3 boxes",
    " in 3 days",
    ", not 13",
    " rather than 1.5",
    " = 3 × 4",
    ", as 3 × 4 = 12",
    " of the 20",
]
# What makes the number a part of something longer, or adds another number.
EXTENSIONS = [
    " + 5", " - 5", " × 5", "*5", " * 5", "**5", "^5", "^{5}", "/5/6", ":30", "'000", ".5.6", "...5", " 5/4 6",
    " 5", ", 5", ",5,", "; 5", " & 5", " or 97", " and 97", " to 97", " by 97", "-97", " – 97", " ± 97",
    " / 97 / 3", " apples and 97 pears", " apples, 97 pears", " apples or 97 pears", " (97)", " (or 97)",
    ", or maybe 97", ". Or 97", ".\nor\n97", ". Alternatively, 97", " or twenty", " and a half", " or more", "x",
    "xy", " y", "π", "√3", "\\sqrt{3}", "\\pi", "\\cdot 97", "(97)", "²", "⁵", " out of 97", " in 97", " of 97",
    "% of 97", " times 97", " plus 97", " more than 97", " hours 30 minutes", " = 97", "?",
    " if it rains, otherwise 97", ", but it could be 97", "x3", "e3x", " x 3", "e", " 1/2 3",
]  # fmt: skip


@st.composite
def numbers(draw):
    """A number as it may be written, and its value."""
    whole, part, under = draw(st.integers(0, 10**7)), draw(st.integers(1, 9)), draw(st.integers(10, 19))
    decimals = draw(st.from_regex(r"[0-9]{1,5}", fullmatch=True))
    written, value = draw(
        st.sampled_from(
            [
                (str(whole), Fraction(whole)),
                (f"{whole:,}", Fraction(whole)),
                (f"{whole:,}".replace(",", " "), Fraction(whole)),
                (f"{whole:,}".replace(",", "\u202f"), Fraction(whole)),
                (f"{whole:,}".replace(",", "{,}"), Fraction(whole)),
                (f"{whole:,}".replace(",", "\\,"), Fraction(whole)),
                (f"{whole:,}".replace(",", "\\ "), Fraction(whole)),
                ("".join(chr(ord(digit) + 0xFEE0) for digit in str(whole)), Fraction(whole)),
                (f"{whole}.{decimals}", Fraction(f"{whole}.{decimals}")),
                (f".{decimals}", Fraction(f"0.{decimals}")),
                (f"{whole}/{under}", Fraction(whole, under)),
                (f"{whole}⁄{under}", Fraction(whole, under)),
                (f"{whole} {part}/{under}", whole + Fraction(part, under)),
                (f"{whole}\\frac{{{part}}}{{{under}}}", whole + Fraction(part, under)),
                (f"\\dfrac{{{part}}}{{{under}}}", Fraction(part, under)),
                (f"{whole}⅗", whole + Fraction(3, 5)),
                (f"{part}.5e3", Fraction(f"{part}.5") * 1000),
                (f"{part}.5E-3", Fraction(f"{part}.5") / 1000),
                (f"{part} \\times 10^{{{part}}}", Fraction(part) * 10**part),
                (f"{part} × 10⁻³", Fraction(part, 1000)),
                (f"{part}.5 million", Fraction(f"{part}.5") * 10**6),
            ]
        )
    )
    sign = draw(st.sampled_from(["", "", "", "-", "−"]))
    return sign + written, -value if sign else value


def read(text):
    """The number that is read from a text, as a fraction; None if there is none."""
    answer = extract_answer(text, "gsm8k")
    return None if answer is None else Fraction(answer)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(MARKERS), st.sampled_from(LEADS), numbers(), st.sampled_from(UNITS))
def test_a_number_in_any_form_is_read_behind_any_marker(marker, lead, number, unit):
    written, value = number
    assert read(marker.format(lead + written + unit)) == value


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(MARKERS), numbers(), st.sampled_from(UNITS), st.sampled_from(TAILS))
def test_what_explains_a_number_changes_nothing(marker, number, unit, tail):
    written, value = number
    if unit.strip("€ ") or tail != " in 3 days":  # "1 in 3" is a chance
        assert read(marker.format(written + unit + tail)) == value


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(MARKERS), st.sampled_from(LEADS), numbers(), st.sampled_from(EXTENSIONS))
@example("The answer is {}.", "", ("5", Fraction(5)), "...5")
def test_a_part_of_something_longer_is_never_read(marker, lead, number, extension):
    written, value = number
    is_other_word = written.endswith("million") and extension[:1].isalpha()
    is_power_of_ten = written.lstrip("-−") == "10" and extension[:1] in "²³⁵^"
    is_longer_exponent = written.endswith("³") and extension in ("²", "⁵")
    is_repeated = str(value) in re.findall(r"\d+", extension)  # "97 or 97" states one value
    if not (is_repeated or is_other_word or is_power_of_ten or is_longer_exponent):
        answer = extract_answer(marker.format(lead + written + extension), "gsm8k")
        assert answer is None or set(answer) & set("^\\")  # a whole formula


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("marker", MARKERS)
def test_no_extension_of_a_whole_number_is_cut_off(marker, extension):
    answer = extract_answer(marker.format(f"41{extension}"), "gsm8k")
    assert answer not in ("41", "-41", "97", "5", "30", "3")


SIGNS = ".,/-+=%$*():;?!^xeER×½{}"
NUMBERS = ["0", "1", "2", "12", "41", "120", "\\frac{1}{2}"]
WORDS = ["km", "or", "and", "to", "in", "of", "because", "not", "million", "**", "\n"]
STATING = ["the answer is ", "#### ", "\\boxed{", "<answer>", "</answer>"]
ALPHABET = st.sampled_from([*SIGNS, *NUMBERS, *NUMBERS, *WORDS, *STATING, *[" "] * 20])
GROUPS = r"\d{1,3}(?:,\d{2,3})*,\d{3}|\d{1,3}(?: \d{3})+|\d+"
DECIMAL = rf"(?:(?:{GROUPS})(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,3}})?"
FORMS = re.compile(rf"(?:(?P<whole>\d+)(?: | ?and )(?=.*/))?(?P<over>{DECIMAL})(?: ?/ ?(?P<under>{DECIMAL}))?")


def value_of(text):
    """The value of a text that is a number as a whole, read without the grammar; None for other texts."""
    found = FORMS.fullmatch(text)
    if found is None or (found["whole"] and not found["under"]):
        return None
    over, under = (Fraction(re.sub("[, ]", "", found[name] or "1")) for name in ("over", "under"))
    return int(found["whole"] or 0) + over / under if under else None


def stated_whole(text):
    """The values of all pieces of a text that cut off no digit, point or exponent at either side."""
    text = re.sub(r"(?<!\d)[*$]+|[*$]+(?!\d)", "", plain(text))  # emphasis
    text = re.sub(" +", " ", text)
    starts = [
        place
        for place in range(len(text))
        if re.match(r"[\d.]", text[place:]) and not re.search(r"\d[.,]?$", text[:place])
    ]
    values = set()
    for start in starts:
        for end in range(start + 1, len(text) + 1):
            value = value_of(text[start:end].strip())
            if value is not None and not re.match(r"\d|[.,]\d|e\d", text[end:]):
                values |= {value, value * 10**6} if text[end:].lstrip().startswith("million") else {value}
    return values


@settings(max_examples=1_000, deadline=None)
@given(st.lists(ALPHABET, max_size=14))
def test_of_any_text_only_numbers_that_stand_whole_in_it_are_read(pieces):
    text = "The answer is " + "".join(pieces)
    answer = extract_answer(text, "gsm8k")
    if answer is not None and re.fullmatch(r"-?[\d./]+", answer):
        assert abs(Fraction(answer)) in stated_whole(text)


@settings(max_examples=300, deadline=None)
@given(numbers(), numbers(), st.sampled_from([" or ", " and ", ", ", " ± ", "; or ", " or maybe ", " / or / "]))
def test_two_numbers_are_two_answers_unless_they_are_equal(one, other, between):
    text = f"The answer is {one[0]}{between}{other[0]}."
    if one[1] == other[1]:
        assert read(text) in (None, one[1])
    else:
        assert extract_answer(text, "gsm8k") is None


@given(st.text(max_size=200))
def test_any_statement_is_read_or_refused(text):
    statement = read_statement(text)
    assert statement.value is None or (statement.is_stated and not statement.has_several)
    assert extract_answer(text, "gsm8k") is None or not names_several_answers(text, "gsm8k")
