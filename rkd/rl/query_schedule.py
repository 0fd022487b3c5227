"""The queries of each rollout: the terms of the loss enter, and share out every rollout's queries."""

import random
from collections.abc import Sequence

from rkd.records import Query
from rkd.rl.reward_mix import Term
from rkd.rl.settings import Rollouts


def queries_of_rollouts(
    terms: Sequence[Term], rollouts: Rollouts, seed: int, processes: int = 1
) -> list[list[list[Query]]]:
    """The queries of each rollout, those of each term: all of its queries in a new order, pass after pass.

    A rollout's queries are shared out to the terms alike, to each a multiple of the processes.
    """
    of_rollouts = []
    for place, (term, size) in enumerate(zip(terms, shares(rollouts, len(terms), processes), strict=True)):
        rng = random.Random(f"rl {seed} {place}" if place else f"rl {seed}")
        size *= 1 + rollouts.dynamic_sampling
        needed = rollouts.count * size
        order: list[Query] = []
        while len(order) < needed:
            order += rng.sample(list(term.queries), len(term.queries))
        of_rollouts.append([order[at : at + size] for at in range(0, needed, size)])
    return [list(of_terms) for of_terms in zip(*of_rollouts, strict=True)]


def shares(rollouts: Rollouts, terms: int, processes: int = 1) -> list[int]:
    """How many of a rollout's queries each term has: alike, the first ones having what is left over."""
    units = rollouts.queries_per_rollout // processes
    return [processes * (units // terms + (place < units % terms)) for place in range(terms)]
