"""The proposer without a model: mutation and recombination of Python programs, and insertion of known code."""

from evolvent_researcher.operators.proposal import Parent, Proposal, Snippet, propose

__all__ = ["Parent", "Proposal", "Snippet", "propose"]
