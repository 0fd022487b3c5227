"""The list of changes for `python tests/mutants.py` is up to date; nothing is run here."""

import ast

import pytest

from tests.mutants import REPOSITORY, Mutant, mutants

MUTANTS = mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{one.file}: {one.breaks}" for one in MUTANTS])
def test_the_text_before_a_change_occurs_once_and_the_changed_file_is_python(mutant):
    ast.parse(mutant.mutated((REPOSITORY / mutant.file).read_text(encoding="utf-8")))
    assert all((REPOSITORY / test.partition("::")[0]).exists() for test in mutant.tests), mutant.tests


def test_no_change_is_listed_twice():
    assert len({(one.file, one.before, one.after) for one in MUTANTS}) == len(MUTANTS) >= 60


def test_a_text_that_is_gone_or_occurs_twice_is_refused():
    mutant = Mutant(file="rkd/a.py", breaks="it", before="x > 1", after="x >= 1", tests=())
    assert mutant.mutated("if x > 1:") == "if x >= 1:"
    for text, found in (("if x:", 0), ("x > 1 and x > 1", 2)):
        with pytest.raises(ValueError, match=rf"rkd/a.py: 'x > 1' occurs {found} times, not once\. Correct"):
            mutant.mutated(text)
