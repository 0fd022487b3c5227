"""The queries of each rollout: the terms of the loss enter, the queries of each rollout and term leave."""

import random
from collections.abc import Sequence

from rkd.records import Query
from rkd.rl.reward_mix import Term
from rkd.rl.settings import Rollouts


def queries_of_rollouts(
    terms: Sequence[Term], rollouts: Rollouts, seed: int, processes: int = 1
) -> list[list[list[Query]]]:
    """The queries of each rollout, by term. A term passes through all its queries in a new order each time.

    The terms get equal parts of a rollout's queries, each part a multiple of the number of processes.
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
    """Number of a rollout's queries for each term: equal parts, with the remainder given to the first terms."""
    units = rollouts.queries_per_rollout // processes
    return [processes * (units // terms + (place < units % terms)) for place in range(terms)]
