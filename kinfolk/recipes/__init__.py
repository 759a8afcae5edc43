"""Complete configs to start from, one file per data set, each with a smoke variant."""

from kinfolk.recipes.catalogue import RECIPES as RECIPES
from kinfolk.recipes.catalogue import by_data as by_data
from kinfolk.recipes.catalogue import recipe as recipe
from kinfolk.recipes.catalogue import smoke as smoke
from kinfolk.recipes.parts import PARTS as PARTS
from kinfolk.recipes.parts import part_config as part_config
from kinfolk.recipes.parts import with_field as with_field
from kinfolk.recipes.sources import DATASETS as DATASETS
from kinfolk.recipes.sources import source_config as source_config
from kinfolk.recipes.sources import source_like as source_like

__all__ = [
    "DATASETS",
    "PARTS",
    "RECIPES",
    "by_data",
    "part_config",
    "recipe",
    "smoke",
    "source_config",
    "source_like",
    "with_field",
]
