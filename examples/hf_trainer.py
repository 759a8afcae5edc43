"""X-CLR under the Hugging Face Trainer: `python examples/hf_trainer.py [STEPS]`, with `pip install transformers`.

The relation between two samples is how alike their descriptions are; here the description is the one-hot class, where
a text encoder's embedding of the caption would stand.
"""

import sys
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from kinfolk.losses import XSampleLoss


class Digits(Dataset):
    """Two noisy views of a digit, and what describes it."""

    def __init__(self) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.data, dtype=torch.float32) / 16
        self.descriptions = nn.functional.one_hot(torch.tensor(digits.target)).float()

    def __len__(self) -> int:
        """Number of digits."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one digit, drawn twice."""
        image = self.images[index]
        views = torch.stack([image + 0.2 * torch.randn(64) for _ in range(2)])
        return {"views": views, "description": self.descriptions[index]}


class XCLR(nn.Module):
    """An encoder that returns its loss, as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        self.contrast = XSampleLoss(temperature=0.1, graph_temperature=0.2)

    def forward(self, views: Tensor, description: Tensor) -> dict[str, Tensor]:
        """Contrast views [n, 2, 64] by their descriptions [n, e]."""
        rows = views.transpose(0, 1).flatten(0, 1)  # view after view
        return {"loss": self.contrast(self.encoder(rows), description.repeat(2, 1))}


def main(steps: int = 100) -> None:
    """Train on the 8 x 8 digits and print how the loss falls."""
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=256,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            dataloader_drop_last=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        trainer = Trainer(model=XCLR(), args=arguments, train_dataset=Digits())
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in (logged[0], logged[-1]):
        print(f"step {entry['step'] - 1}: loss {float(entry['loss']):.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
