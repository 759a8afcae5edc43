"""SupCon in a loop of your own: `python examples/plain_loop.py [STEPS]`, a few seconds on a CPU."""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

from kinfolk.losses import SupConLoss


def main(steps: int = 100) -> None:
    """Train an encoder of the 8 x 8 digits and print how the loss falls."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    contrast = SupConLoss(temperature=0.1)
    for step in range(steps):
        batch = torch.randint(len(images), (256,))
        views = [images[batch] + 0.2 * torch.randn(256, 64) for _ in range(2)]
        embeddings = encoder(torch.cat(views))  # [2 n, d], view after view; normalised inside the loss
        loss = contrast(embeddings, labels[batch].repeat(2), ids=batch.repeat(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, steps - 1):
            print(f"step {step}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
