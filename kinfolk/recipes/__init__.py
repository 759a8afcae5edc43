"""Complete configs to start from, one file per data set, each with a smoke variant."""

from kinfolk.recipes.catalogue import RECIPES as RECIPES
from kinfolk.recipes.catalogue import recipe as recipe
from kinfolk.recipes.catalogue import smoke as smoke
from kinfolk.recipes.sources import DATASETS as DATASETS
from kinfolk.recipes.sources import source_config as source_config

__all__ = ["DATASETS", "RECIPES", "recipe", "smoke", "source_config"]
