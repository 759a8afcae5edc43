"""Writing any data set as tar shards or Parquet files, all parts and all columns."""

from __future__ import annotations

import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kinfolk.data.optional import import_extra
from kinfolk.data.shard_writer import ShardWriter
from kinfolk.data.sources.base import Source, Splits
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.encoded import EncodedSource
from kinfolk.data.sources.shard_records import SINGULAR
from kinfolk.data.sources.streaming import StreamSource
from kinfolk.data.sources.whole import whole_of

ImageFormat = Literal["original", "png", "webp"]

_CHUNK = 256
_ENDINGS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "PPM": "ppm"}
_LISTED = 20
_TOLD = 10_000


@dataclass(frozen=True)
class _Sample:
    image: bytes
    ending: str
    metadata: dict[str, Any]
    saliency: bytes | None


def shard(
    splits: Splits,
    out: str | Path,
    *,
    form: Literal["tar", "parquet"] = "tar",
    max_samples: int = 10_000,
    image_format: ImageFormat = "original",
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write a data set as tar shards or Parquet files: training, test and probe part, ids, and every column.

    Tar shards are what `ShardWriter` writes and `ShardsConfig` reads. Parquet files lie in ``data/`` under Hugging
    Face's names (``data/train-00000-of-00003.parquet``), with an ``image`` column that its `datasets` library decodes
    and labels that carry their class names. The folder appears only when all of it is written.

    Args:
        splits: the data set.
        out: the folder to make; it must not exist, or be empty.
        form: `tar` or `parquet`.
        max_samples: of one file.
        image_format: `original` passes encoded images on as they are, whatever their size, and writes the others as
            PNG; `png` and `webp` (lossless) write the decoded pixels, fitted to the source's image size.
        progress: called with a line of text now and then, for example `print`.

    Returns:
        The folder.

    Raises:
        FileExistsError: when there is something in the folder.
        UnreadableImage: for an image that cannot be read; a source with ``on_error="skip"`` leaves such images out,
            with a warning that lists them. Of an image that is passed on only the header is read.
        ValueError: for a table, which has no images, a stream, and for a form, a format or a size that does not exist.

    Example:
        >>> import tempfile
        >>> from kinfolk.data.sources.base import ArraySource
        >>> source = ArraySource(torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out = shard(Splits(source, source.subset(torch.tensor([0]))), f"{folder}/tiny", max_samples=2)
        ...     sorted(path.name for path in out.glob("*.tar"))
        ['test-000000.tar', 'train-000000.tar', 'train-000001.tar']
    """
    for name, value, choices in (
        ("form", form, ("tar", "parquet")),
        ("image_format", image_format, ("original", "png", "webp")),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}; found {value!r}")
    if max_samples < 1:
        raise ValueError(f"max_samples must be at least 1; found {max_samples}")
    if isinstance(splits.train, StreamSource):
        raise ValueError(
            f"{splits.train.name} is a stream, of which only the first {len(splits.train)} samples are at hand; load"
            " the data with streaming=False to write all of them"
        )
    given = {"train": splits.train, "test": splits.test, "probe": splits.probe}
    parts = {part: source for part, source in given.items() if source is not None and len(source)}
    left_out: list[str] = []
    with _new_folder(Path(out)) as folder:
        for part, source in parts.items():
            samples = _told(_samples(source, image_format, left_out), part, len(source), progress)
            if form == "tar":
                _write_tars(folder, part, source, samples, max_samples)
            else:
                _write_parquet(folder, part, source, samples, max_samples)
    if left_out:
        listed = "\n  ".join(left_out[:_LISTED] + ["..."] * (len(left_out) > _LISTED))
        warnings.warn(f"{out}: {len(left_out)} images left out\n  {listed}", stacklevel=2)
    return Path(out)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `out` on leaving without an error."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already and not empty; give another folder, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    temporary.mkdir()
    try:
        yield temporary
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _samples(source: Source, image_format: ImageFormat, left_out: list[str]) -> Iterator[_Sample]:
    """Yield a part's samples; images that cannot be read are added to `left_out`, or raise, as the source does."""
    if source.image_size == (1, 1) and len(source) and source.read(torch.tensor([0])).is_floating_point():
        raise ValueError(f"{source.name!r} is a table and has no images to shard; use its file as it is")
    whole, positions = whole_of(source)
    skip = isinstance(whole, EncodedSource) and whole.on_error == "skip"
    for indices in torch.arange(len(source)).split(_CHUNK):
        known = source.describe(indices)
        masks = known.pop("saliency", None)
        for row, index in enumerate(indices.tolist()):
            try:
                image, ending = _encoded(whole, int(positions[index]), image_format)
            except UnreadableImage as error:
                if not skip:
                    raise
                left_out.append(str(error))
                continue
            metadata = {SINGULAR.get(name, name): _plain(values[row]) for name, values in known.items()}
            metadata["id"] = metadata.pop("ids")
            yield _Sample(image, ending, metadata, None if masks is None else _encode(masks[row], "png"))


def _told(
    samples: Iterator[_Sample], part: str, total: int, progress: Callable[[str], None] | None
) -> Iterator[_Sample]:
    for number, sample in enumerate(samples, start=1):
        yield sample
        if progress is not None and (number % _TOLD == 0 or number == total):
            progress(f"{part}: {number:,} of {total:,} written")


def _encoded(source: Source, position: int, image_format: ImageFormat) -> tuple[bytes, str]:
    if image_format == "original" and isinstance(source, EncodedSource):
        place = source.encoded(position)
        data = _file_bytes(place, source.where(position)) if isinstance(place, Path) else place
        ending = _ENDINGS.get(_format(data, source.where(position)))
        if ending is not None:
            return data, ending
    ending = "webp" if image_format == "webp" else "png"
    return _encode(source.read(torch.tensor([position]))[0], ending), ending


def _file_bytes(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{where} cannot be read as an image: {error}") from error


def _format(data: bytes, where: str) -> str:
    pil = import_extra("PIL.Image", needed_for="writing image files")
    try:
        with warnings.catch_warnings(), pil.open(io.BytesIO(data)) as image:
            return str(image.format)
    except (OSError, SyntaxError, ValueError, EOFError, pil.DecompressionBombError) as error:
        raise UnreadableImage(f"{where} cannot be read as an image: {error}") from error


def _encode(image: Tensor, ending: str) -> bytes:
    pil = import_extra("PIL.Image", needed_for="writing image files")
    array = image.numpy()
    picture = pil.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0).copy())
    buffer = io.BytesIO()
    # exact: the colours under a transparent pixel stay as well
    picture.save(buffer, format=ending, **({"lossless": True, "exact": True} if ending == "webp" else {}))
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _types(source: Source) -> dict[str, str]:
    """Name the type of every column, so that a reader gives back the same."""
    return {
        name: str(values.dtype).removeprefix("torch.") if isinstance(values, Tensor) else "list"
        for name, values in source.columns.items()
        if name != "saliency"
    }


def _write_tars(folder: Path, part: str, source: Source, samples: Iterator[_Sample], max_samples: int) -> None:
    with ShardWriter(
        folder,
        part=part,
        max_samples=max_samples,
        class_names=source.class_names,
        channels=source.channels,
        info={"columns": _types(source)},
    ) as writer:
        for sample in samples:
            extra = None if sample.saliency is None else {"saliency.png": sample.saliency}
            key = f"{writer.samples:08d}"
            writer.write(key, sample.image, ending=sample.ending, metadata=sample.metadata, extra=extra)


def _write_parquet(folder: Path, part: str, source: Source, samples: Iterator[_Sample], max_samples: int) -> None:
    parquet = import_extra("pyarrow.parquet", needed_for="writing Parquet files")
    data = folder / "data"
    data.mkdir(exist_ok=True)
    schema = _schema(source)
    files: list[Path] = []
    rows: list[dict[str, Any]] = []
    writer, written = None, 0
    try:
        for sample in samples:
            if written % max_samples == 0:
                _flush(writer, rows, schema)
                if writer is not None:
                    writer.close()
                files.append(data / f"{part}-{len(files):05d}.parquet")
                writer = parquet.ParquetWriter(files[-1], schema)
            rows.append(_row(sample, written))
            written += 1
            if len(rows) == _CHUNK:
                _flush(writer, rows, schema)
        _flush(writer, rows, schema)
    finally:
        if writer is not None:
            writer.close()
    for number, file in enumerate(files):
        file.rename(data / f"{part}-{number:05d}-of-{len(files):05d}.parquet")


def _flush(writer: Any, rows: list[dict[str, Any]], schema: Any) -> None:
    if rows:
        writer.write_table(import_extra("pyarrow", needed_for="writing Parquet files").Table.from_pylist(rows, schema))
        rows.clear()


def _row(sample: _Sample, number: int) -> dict[str, Any]:
    row = {"image": {"bytes": sample.image, "path": f"{number:08d}.{sample.ending}"}, **sample.metadata}
    if sample.saliency is not None:
        row["saliency"] = {"bytes": sample.saliency, "path": f"{number:08d}.saliency.png"}
    return row


def _schema(source: Source) -> Any:
    """Build the Arrow schema; its metadata tell Hugging Face's library what is an image and what a class."""
    pa = import_extra("pyarrow", needed_for="writing Parquet files")
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields: dict[str, Any] = {"image": picture, "id": pa.int64()}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    for name, values in source.columns.items():
        key = SINGULAR.get(name, name)
        if name == "saliency":
            fields[key], features[key] = picture, {"_type": "Image"}
        elif isinstance(values, Tensor):
            fields[key] = pa.from_numpy_dtype(values.numpy().dtype)
            for _ in values.shape[1:]:
                fields[key] = pa.list_(fields[key])
        else:
            fields[key] = pa.array(values).type
    if "label" in fields and source.class_names is not None:
        features["label"] = {"names": list(source.class_names), "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(fields.items()), metadata=metadata)
