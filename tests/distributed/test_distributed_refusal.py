"""With more than one process a loss refuses, and names the way out, rather than return a wrong gradient."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RANK = """
import sys, torch, torch.distributed as dist
from kinfolk.losses import NTXentLoss
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
z0, z1 = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(rank))
try:
    NTXentLoss()(z0, z1)
except RuntimeError as error:
    assert "NTXentLoss" in str(error) and "gather=False" in str(error), error
else:
    raise SystemExit("no error")
local = NTXentLoss(gather=False)(z0, z1)
dist.destroy_process_group()
assert torch.equal(local, NTXentLoss()(z0, z1))
"""


def test_two_processes_are_refused_unless_gather_is_off(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
