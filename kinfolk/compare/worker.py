"""The process of one run of a comparison: ``python -m kinfolk.compare.worker FOLDER KEY``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from kinfolk.compare.comparison import CONFIG_FILE, read_config
from kinfolk.compare.plan import planned_references, planned_runs
from kinfolk.compare.runner import LOCKED, Task, claimed, perform

_PATIENCE_SECONDS = 2.0


def main(folder: Path, key: str) -> int:
    """Perform the task of this key if no other process holds it.

    Returns:
        0, or `LOCKED` after some seconds when the task is another process's.
    """
    config = read_config(folder)
    tasks: list[Task] = [*planned_references(config, folder), *planned_runs(config, folder)]
    task = next((task for task in tasks if task.key == key), None)
    if task is None:
        print(f"{folder / CONFIG_FILE} has no {key} any more: another comparison was begun in this folder", flush=True)
        return 1
    with claimed(folder, task) as ours:
        if not ours:
            time.sleep(_PATIENCE_SECONDS)
            return LOCKED
        perform(task)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
