"""NT-Xent in a LightningModule: `python examples/lightning_module.py [STEPS]`, with `pip install pytorch-lightning`.

On several devices nothing changes: under DDP the loss gathers the rows of all ranks with their gradient.
"""

import sys

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kinfolk.losses import NTXentLoss


class SimCLR(pl.LightningModule):
    """An encoder, two noisy views, one loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        self.contrast = NTXentLoss(temperature=0.2)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Contrast two views of a batch; `ids` keeps a sample drawn twice from being its own negative."""
        images, ids = batch
        z0, z1 = (self.encoder(images + 0.2 * torch.randn_like(images)) for _ in range(2))
        loss = self.contrast(z0, z1, ids=ids)
        if self.global_step in (0, self.trainer.max_steps - 1):
            print(f"step {self.global_step}: loss {loss.item():.4f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with decoupled weight decay."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(steps: int = 100) -> None:
    """Train on the 8 x 8 digits and print how the loss falls."""
    pl.seed_everything(0, verbose=False)
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    loader = DataLoader(TensorDataset(images, torch.arange(len(images))), batch_size=256, shuffle=True, drop_last=True)
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SimCLR(), loader)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
