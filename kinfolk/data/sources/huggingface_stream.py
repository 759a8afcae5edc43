"""A Hugging Face data set as a stream of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kinfolk.data.sources.base import Splits
from kinfolk.data.sources.cells import Roles, caption, encoded_image, number_labels
from kinfolk.data.sources.decode import UnreadableImage, read_image
from kinfolk.data.sources.huggingface_columns import caption_cells, choices, most_channels, reading_errors, reason
from kinfolk.data.sources.records import read_records
from kinfolk.data.sources.stream_head import read_head
from kinfolk.data.sources.streaming import StreamSource

if TYPE_CHECKING:
    from kinfolk.data.sources.huggingface import HuggingFaceConfig

_ROWS_AT_ONCE = 256
_FIRST_TEST_ID = 2**40  # beyond any position in a training stream, whose length is not known


class HuggingFaceStream:
    """Samples of a Hugging Face data set one after another, for `StreamSource`.

    Args:
        dataset: a `datasets.IterableDataset`.
        roles: what its columns mean.
        config: how samples are decoded.
        channels: 1, 3 or 4; None takes the most that any of the first 256 images has.
        class_names: one name per class, or None.
        name: how errors name it.
    """

    def __init__(
        self,
        dataset: Any,
        roles: Roles,
        config: HuggingFaceConfig,
        *,
        channels: int | None,
        class_names: tuple[str, ...] | None,
        name: str,
    ) -> None:
        wanted = {roles.image, roles.label or roles.image, roles.text or roles.image, *dict(roles.records).values()}
        self.dataset = dataset.select_columns(sorted(wanted)).with_format("arrow")
        self.roles, self.config, self.class_names, self.name = roles, config, class_names, name
        self.channels = channels or most_channels(row[roles.image] for row in self.open(0))

    def open(self, start: int) -> Iterator[Any]:
        """Give the samples from a position on, undecoded.

        Raises:
            ValueError: from the iterator, when the files cannot be read; the message says near which sample.
        """
        position, tables = 0, iter(self.dataset.iter(batch_size=_ROWS_AT_ONCE))
        while True:
            try:
                table = next(tables)
            except StopIteration:
                return
            except reading_errors() as error:
                raise ValueError(
                    f"{self.name} cannot be read at sample {position} or one of the {_ROWS_AT_ONCE} after it:"
                    f" {reason(error)}"
                ) from error
            skipped = min(max(start - position, 0), len(table))
            position += len(table)
            yield from self._rows(table.slice(skipped))

    def _rows(self, table: Any) -> Iterator[dict[str, Any]]:
        """Turn a table of encoded samples into mappings; its rows one by one would take several times as long."""
        columns = {
            name: caption_cells(table[name]) if name == self.roles.text else table[name].to_pylist()
            for name in table.column_names
        }
        return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))

    def decode(self, sample: Any, position: int) -> dict[str, Any]:
        """Decode one sample.

        Raises:
            UnreadableImage: naming what cannot be read.
        """
        where, roles = f"{self.name}, sample {position}", self.roles
        known: dict[str, Any] = {}
        try:
            if roles.label is not None:
                known["labels"] = self._label(sample[roles.label], where)
            if roles.text is not None:
                choice = choices(self.config, torch.tensor([position]))[0]
                known["text"] = caption(sample[roles.text], where=where, choice=choice)
            known |= self._records(sample, where)
        except (TypeError, ValueError) as error:
            raise error if isinstance(error, UnreadableImage) else UnreadableImage(f"{where}: {error}") from error
        image = read_image(
            encoded_image(sample[roles.image], where=where),
            channels=self.channels,
            size=self.config.image_size,
            fit=self.config.fit,
            where=where,
        )
        return {"images": image, **known}

    def _label(self, value: Any, where: str) -> int:
        label = int(number_labels([value], class_names=self.class_names, where=where)[0])
        if not -1 <= label < (len(self.class_names) if self.class_names is not None else label + 1):
            raise ValueError(f"label {label} is out of range; there are {len(self.class_names or ())} classes")
        return label

    def _records(self, sample: Mapping[str, Any], where: str) -> dict[str, Any]:
        record = {key: sample[column] for key, column in self.roles.records if key != "id"}
        record |= {key: -1 for key in ("bias_label", "group") if key in record and record[key] is None}
        missing = [key for key, value in record.items() if value is None]
        if missing:
            raise ValueError(f"no {', '.join(missing)}, which other samples have")
        embedding = record.pop("text_embedding", None)
        for key in set(record) & {"bias_label", "group"}:
            if not isinstance(record[key], int):
                raise ValueError(
                    f"in a stream {key} must be a number, for names cannot be counted; found {record[key]!r}"
                )
        known: dict[str, Any] = {name: values[0] for name, values in read_records([record], where=where).items()}
        if embedding is not None:
            known["text_embedding"] = torch.tensor(embedding, dtype=torch.float32)
        return known


def streamed_splits(config: HuggingFaceConfig, train: Any, test: Any, roles: Roles) -> Splits:
    """Make a source that streams, and a test part in memory.

    Args:
        config: how samples are read.
        train: a `datasets.IterableDataset`, or a `datasets.Dataset`.
        test: another, or None to take the first samples of the stream.
        roles: what their columns mean.

    Raises:
        UnreadableImage: naming one of the first samples that cannot be read.
        ValueError: when the number of samples or the names of classes are not known.
    """
    class_names, on_error = config.class_names or roles.class_names, config.on_error
    held_out = config.held_out if test is None else 0
    epoch = config.samples_per_epoch or _length(train, config.train_split) - held_out
    if epoch < 1:
        raise ValueError(f"{config.path} does not say how many samples it has: give samples_per_epoch")
    if class_names is None and roles.label and "string" in str(getattr(train.features[roles.label], "dtype", "")):
        raise ValueError(
            f"{config.path}: the labels of {roles.label!r} are names, and a stream is not read through to collect them;"
            " give class_names"
        )

    def stream(part: str, dataset: Any, channels: int | None) -> HuggingFaceStream:
        name = f"{Path(config.path).stem} {part}"
        return HuggingFaceStream(
            _iterable(dataset), roles, config, channels=channels, class_names=class_names, name=name
        )

    training = stream("train", train, config.channels)
    testing, first_id = (training, 0) if test is None else (stream("test", test, training.channels), _FIRST_TEST_ID)
    held = read_head(
        testing,
        config.held_out,
        first_id=first_id,
        name=f"{Path(config.path).stem} test",
        class_names=class_names,
        on_error=on_error,
    )
    head = read_head(
        training, config.reference, start=held_out, name=training.name, class_names=class_names, on_error=on_error
    )
    source = StreamSource(
        training,
        head,
        held_out=held_out,
        samples_per_epoch=epoch,
        buffer=config.shuffle_buffer,
        seed=config.seed,
        on_error=on_error,
    )
    return Splits(source, held)


def _iterable(dataset: Any) -> Any:
    return dataset.to_iterable_dataset() if hasattr(dataset, "to_iterable_dataset") else dataset


def _length(dataset: Any, split: str) -> int:
    """Return the number of samples, 0 where it is not known."""
    if hasattr(dataset, "to_iterable_dataset"):
        return len(dataset)
    splits = getattr(dataset.info, "splits", None) or {}
    return splits[split].num_examples if split in splits else 0
