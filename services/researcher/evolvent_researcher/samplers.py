"""Samplers: which measured candidates a design starts from. Pure functions of the population and a random stream."""

import math
import random
from collections.abc import Callable

from evolvent.population import Population
from evolvent_schemas.values import Choice

Sampler = Callable[[Population, int, random.Random], tuple[Choice, ...]]
"""`sample(population, count, rng)`: at most `count` different members with their weights, the preferred first."""


def uniform(population: Population, count: int, rng: random.Random) -> tuple[Choice, ...]:
    """Choose among all measured candidates with equal chance; the weight is that chance."""
    size = len(population.measured)
    chosen = rng.sample(range(size), min(count, size))
    return tuple(Choice(candidate=population.measured[index], weight=1 / size) for index in chosen)


def greedy(population: Population, count: int, _rng: random.Random) -> tuple[Choice, ...]:
    """Choose the best; the weight is the fitness."""
    return tuple(Choice(candidate=name, weight=population.fitness(name)) for name in population.elite[:count])


def ucb1(population: Population, count: int, _rng: random.Random) -> tuple[Choice, ...]:
    """Choose by upper confidence bound over the leading candidates; the weight is the bound.

    `bound = fitness scaled to [0, 1] over the pool + sqrt(2 ln N / n)`, n the candidate's visits and N their sum, one
    virtual visit each, so that it engages from the first round and an unvisited candidate is not infinitely good.

    Source: Auer, Cesa-Bianchi, Fischer (2002), Finite-time analysis of the multiarmed bandit problem, figure 1.
    """
    pool = population.elite
    if not pool:
        return ()
    low, high = population.fitness(pool[-1]), population.fitness(pool[0])
    visits = {name: 1 + population.visits.get(name, 0) for name in pool}
    explored = 2 * math.log(sum(visits.values()))

    def bound(name: str) -> float:
        worth = (population.fitness(name) - low) / (high - low) if high > low else 1.0
        return worth + math.sqrt(explored / visits[name])

    ranked = sorted(pool, key=bound, reverse=True)[:count]
    return tuple(Choice(candidate=name, weight=bound(name)) for name in ranked)


SAMPLERS: dict[str, Sampler] = {"random": uniform, "greedy": greedy, "ucb1": ucb1}
