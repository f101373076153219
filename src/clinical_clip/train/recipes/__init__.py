"""Runs as functions that return complete, frozen configs, by name."""

from __future__ import annotations

from collections.abc import Callable

from clinical_clip.errors import OptionError
from clinical_clip.train.config import RunConfig
from clinical_clip.train.recipes.lite import lite
from clinical_clip.train.recipes.paper import Weights, paper_recipes
from clinical_clip.train.recipes.smoke import smoke_recipes

__all__ = ["Weights", "paper_recipes", "recipe", "recipes", "smoke_recipes"]


def recipes() -> dict[str, Callable[[Weights], RunConfig]]:
    """Every recipe by name; each takes where the starting weights are.

    >>> len(paper_recipes())
    15
    """
    known: dict[str, Callable[[Weights], RunConfig]] = dict(paper_recipes())
    known["lite"] = lambda weights: lite()
    for name, config in smoke_recipes().items():
        known[name] = lambda weights, config=config: config  # type: ignore[misc]
    return known


def recipe(name: str, weights: Weights | None = None) -> RunConfig:
    """The recipe called ``name``.

    Raises:
        OptionError: there is none.

    >>> recipe("clinical-clip-vit-b-32").optim.lr
    3e-05
    """
    known = recipes()
    if name not in known:
        raise OptionError(f"no recipe {name!r}", where="RECIPE", hint="see `clinical-clip train list`")
    return known[name](weights or Weights())
