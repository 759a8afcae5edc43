"""What is compared computes the same: value and gradient of every form, and the shape of the floor."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import floor, inputs, losses, peers  # noqa: E402
from benchmarks.contenders import _DENSE, COMPILED, OURS, YARDSTICK, Contender, contenders  # noqa: E402
from benchmarks.inputs import LOSSES, TEMPERATURE  # noqa: E402
from benchmarks.probe import Task, probe, run  # noqa: E402

ROWS, D, E = 96, 12, 5


def compared(loss: str, contender: Contender) -> dict[str, float]:
    x = inputs.make(loss, ROWS, D, E, dtype=torch.float64)
    ours = contenders(loss, only=(OURS,))[OURS].step
    assert ours is not None
    assert contender.step is not None
    reference = losses._evaluate(ours, x)
    return {k: float(str(v)) for k, v in losses.compare(*losses._evaluate(contender.step, x), reference).items()}


@pytest.mark.parametrize("loss", LOSSES)
def test_forms_and_installed_peers_are_the_same_loss(loss: str) -> None:
    """In float64; the SupContrast style multiplies by tau / base and says so by its ratio."""
    found = contenders(loss)
    for name in found.keys() - {OURS, YARDSTICK, COMPILED}:
        if found[name].step is None:
            assert found[name].note
            continue
        ratio = TEMPERATURE / 0.07 if name == "SupContrast style" else 1.0
        agreement = compared(loss, found[name])
        assert agreement["value ratio"] == pytest.approx(ratio, rel=1e-6), name
        assert agreement["gradient ratio"] == pytest.approx(ratio, rel=1e-6), name
        assert agreement["gradient cosine"] == pytest.approx(1, abs=1e-9), name


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_dense_form_can_be_compiled(loss: str) -> None:
    """Traced only: torch's code generator takes most of the time of a benchmark's smoke run."""
    x = inputs.make(loss, ROWS, D, E, dtype=torch.float64)
    function, take = _DENSE[loss]
    torch.compiler.reset()
    compiled = torch.compile(function, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(*take(x)), function(*take(x)))


def test_another_loss_is_found_out_and_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted peer without the diagonal's mask must not get a time."""

    def leaky(x: inputs.Inputs) -> torch.Tensor:
        unit = torch.nn.functional.normalize(x.joined, dim=1)
        own = torch.arange(len(unit)).roll(len(x.z0))
        return torch.nn.functional.cross_entropy(unit @ unit.T / TEMPERATURE, own)

    both = contenders("NT-Xent", only=(OURS,)) | {"leaky": Contender("leaky", leaky)}
    monkeypatch.setattr(losses, "contenders", lambda *args, **options: both)
    monkeypatch.setattr(losses, "_first_run", lambda *args: losses.Found("ok"))
    settings = replace(losses.smoke(), losses=("NT-Xent",))
    rows = {row["contender"]: row for row in losses.measure(settings, tmp_path / "t.csv")}
    assert rows["leaky"]["status"] == "another loss: not timed"
    assert rows["leaky"].get("milliseconds") is None
    assert float(str(rows[OURS]["milliseconds"])) > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_floor_runs_its_own_multiply_adds(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at the two matmul calls; the symmetric form is 4 n^2 d."""
    counted = 0
    mm, addmm = torch.mm, torch.Tensor.addmm_

    def count(a: torch.Tensor, b: torch.Tensor) -> None:
        nonlocal counted
        counted += 2 * a.shape[0] * a.shape[1] * b.shape[1]

    def counting_mm(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        count(a, b)
        return mm(a, b, out=out)

    def counting_addmm(self: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float) -> torch.Tensor:
        count(a, b)
        return addmm(self, a, b, beta=beta)

    monkeypatch.setitem(floor.TILE, "cpu", (32, 40))
    products = floor.products(floor.work(loss, ROWS, D, E))
    monkeypatch.setattr(torch, "mm", counting_mm)
    monkeypatch.setattr(torch.Tensor, "addmm_", counting_addmm)
    products()
    expected = {"CLIP": 8 * D, "CACR": 8 * D, "X-CLR": 4 * D + 2 * E}.get(loss, 4 * D) * ROWS**2
    assert counted == floor.work(loss, ROWS, D, E).flops == expected


def test_a_probe_finds_the_score_matrix() -> None:
    """The dense form holds between two and ten of them at once; each has 2048 x 2048 float32."""
    found = probe(Task("NT-Xent", "dense", 2048, 16, 4, threads=1, memory_limit=10**9), limit=120)
    matrix = 4 * 2048**2
    assert found.status == "ok"
    assert found.peak is not None
    assert 2 * matrix < found.peak < 10 * matrix
    assert found.seconds is not None
    assert found.seconds > 0


def test_what_does_not_fit_or_end_is_a_status_and_no_crash() -> None:
    task = Task("NT-Xent", "dense", 4096, 16, 4, threads=1, memory_limit=10**8)
    assert probe(task, limit=120).status == "out of memory at a limit of 0.1 GB"
    assert probe(replace(task, rows=64), limit=0.0).status == "no result within 0 s"
    assert probe(replace(task, contender="nobody"), limit=120).status == "KeyError: 'nobody'"
    with pytest.raises(KeyError, match="nobody"):
        run(replace(task, contender="nobody"))


def test_an_absent_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "_search_path", lambda folder: [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "open_clip.loss", raising=False)
    with pytest.raises(peers.AbsentError, match="--peers FOLDER"):
        peers.open_clip(None)
    found = contenders("CLIP", only=("open_clip",))["open_clip"]
    assert found.step is None
    assert "open_clip is not installed" in found.note


def test_a_loss_file_is_loaded_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``__init__`` that imports what does not exist is not run."""
    package = tmp_path / "faraway" / "loss"
    package.mkdir(parents=True)
    (tmp_path / "faraway" / "__init__.py").write_text("import torchvision_that_is_not_there")
    (package / "__init__.py").write_text("import torchvision_that_is_not_there")
    (package / "one.py").write_text("from faraway.extra import unused\nvalue = 3\n")
    bare = ("faraway", "faraway.loss")
    for name in (*bare, "faraway.extra", "faraway.loss.one"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    extra = types.ModuleType("faraway.extra")
    extra.unused = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faraway.extra", extra)
    module = peers._alone("faraway.loss.one", bare=bare, folder=tmp_path)
    assert module.value == 3  # type: ignore[attr-defined]
    for name in (*bare, "faraway.loss.one"):
        monkeypatch.delitem(sys.modules, name, raising=False)
