"""The training loop, top to bottom in the order in which things happen."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

import kinfolk
from kinfolk import distributed
from kinfolk.data import BatchReader, Splits, cached, resident
from kinfolk.data.counter import counter_seed
from kinfolk.data.views.table import make_views
from kinfolk.evals import FeatureCache
from kinfolk.nn import encoder_dim, synchronise_batch_norm
from kinfolk.train.batches import Length, make_batch, make_sampler, training_length, views_per_step
from kinfolk.train.calibration import load_classifier
from kinfolk.train.card import write_card
from kinfolk.train.checkpoint import Position, checkpoints, restore_checkpoint, save_checkpoint, seed_everything
from kinfolk.train.config import TrainConfig
from kinfolk.train.device import make_accelerator, peak_memory_mb, prepare, resolve_device, resolve_precision
from kinfolk.train.evaluation import labels_used, measure, write_evaluation
from kinfolk.train.optimizers import cosine_schedule
from kinfolk.train.processes import average_statistics, gather_names, gather_states, mean_terms, on_first_rank
from kinfolk.train.runs import (
    EncoderFile,
    Run,
    build_encoder,
    build_method,
    export_encoder,
    initialise_encoder,
    load_encoder,
    open_run,
    view_shape,
)
from kinfolk.train.step import clip_gradients, forward_backward
from kinfolk.train.towers import load_towers
from kinfolk.train.tracking import MetricsFile, Progress, truncate_metrics


def fit(
    config: TrainConfig,
    *,
    out: str | Path,
    overwrite: bool = False,
    resume: bool = False,
    init: str | Path | None = None,
    init_partial: bool = False,
) -> Run:
    """Train an encoder, export it, evaluate it, and write all of it to a folder.

    Under ``torchrun`` or ``accelerate launch`` every process calls it with the same arguments; the first one writes.
    The batch, its views and the loss are those of one process.

    Args:
        config: The run; `kinfolk.recipes.recipe` has complete ones.
        out: The run's folder. A folder that holds something is never replaced unasked.
        overwrite: Delete what the folder holds first.
        resume: Continue from the newest checkpoint. On a CPU, with one process or two, the result is bitwise that of
            an uninterrupted run; with more, sums over processes may be rounded in another order.
        init: A finished run's folder, or a safetensors or torch file, whose encoder weights to start from.
        init_partial: Take what fits of these weights, and say what was left; otherwise anything missing is an error.

    Returns:
        The run. ``run.records`` are the evaluation's records, `load_encoder` takes it.

    Raises:
        FileExistsError: If the folder holds something and neither ``overwrite`` nor ``resume`` is given.
        FileNotFoundError: If there is nothing to resume, or no weights at ``init``.
        FloatingPointError: If the loss or its gradient is not finite; the last good checkpoint stays.
        ValueError: If the config of a resumed run differs, or its parts do not fit each other.

    Example:
        >>> import tempfile
        >>> from kinfolk.recipes import recipe, smoke
        >>> run = fit(smoke(recipe("simclr-digits")), out=tempfile.mkdtemp())
        >>> load_encoder(run).feature_dim > 0, len(run.records) > 0
        (True, True)
    """
    # Where it runs.
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    accelerator = make_accelerator(device, precision)
    main = accelerator.is_main_process

    # What is trained, and on what.
    seed_everything(config.seed)
    splits = config.load()
    source = splits.train
    views = make_views(config.views, source, seed=config.seed)
    encoder = build_encoder(config, source)
    taken = None if init is None else initialise_encoder(encoder, init, partial=init_partial)
    sampler = make_sampler(config, source, rank=accelerator.process_index, world_size=accelerator.num_processes)
    length = training_length(config, sampler)
    method = build_method(config, source, encoder=encoder, length=length)
    # Strided convolutions run up to 1.7 times as fast on a CPU in this layout.
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if accelerator.num_processes > 1 and config.sync_batch_norm:
        synchronise_batch_norm(method)
    optimizer = config.optimizer.build(method)
    total_steps = length.total_steps
    model, stepper = prepare(accelerator, method, optimizer)
    if not main:  # the weights are the same on all ranks, what dropout drops is not
        seed_everything(counter_seed(config.seed, accelerator.process_index))

    # Where it is written, and where it starts.
    run = Run(Path(out))
    on_first_rank(lambda: open_run(config, run.folder, overwrite=overwrite, resume=resume))
    saved = checkpoints(run.checkpoints)
    rank = accelerator.process_index
    position = restore_checkpoint(saved[-1], method, optimizer, rank=rank) if saved else Position()
    if main and resume:
        truncate_metrics(run.metrics_file, step=position.step)
    metrics = MetricsFile(run.metrics_file, enabled=main)
    negatives = method.negatives(samples=config.batch_size, views=config.views.count)
    progress = Progress(total_steps=total_steps, done=position.step, enabled=main, negatives=negatives)
    kept = cached(source, where=config.cache, limit_mb=config.cache_limit_mb)
    reader = BatchReader(resident(kept, accelerator.device), sampler, workers=config.workers)
    skipped: set[str] = set()

    with metrics, progress, reader:
        if taken is not None:
            progress.note(taken.summary())
        facts = {"device": accelerator.device.type, "precision": precision, "processes": accelerator.num_processes}
        facts |= {"image_views": total_steps * views_per_step(config)}
        facts |= {"kinfolk": kinfolk.__version__, "torch": torch.__version__}
        step = logged_step = position.step
        logged_at = time.perf_counter()
        begun = logged_at - position.seconds
        metrics.write("resume" if resume else "start", step=step, total_steps=total_steps,
                      negatives_per_anchor=negatives, **facts)  # fmt: skip

        for epoch in range(position.epoch, length.epochs):
            steps = range(position.step_in_epoch if epoch == position.epoch else 0, length.steps_of(epoch))
            for step_in_epoch, data in zip(steps, reader.epoch(epoch, start_step=steps.start), strict=False):
                if unreadable := set(data.pop("skipped", ())) - skipped:
                    skipped |= unreadable
                    metrics.write("skipped", step=step, samples=sorted(unreadable))
                batch = make_batch(data, views, epoch=epoch, device=accelerator.device)
                if step == 0 and method.relation is not None:
                    ids = distributed.all_gather(batch["ids"])
                    metrics.write("relation", step=0, **method.relation.summary(ids, len(batch["views"])))

                rate = config.optimizer.learning_rate * cosine_schedule(
                    step, total_steps=total_steps, warmup_fraction=config.warmup
                )
                for group in optimizer.param_groups:
                    group["lr"] = rate * group.get("rate_factor", 1.0)
                terms = forward_backward(model, batch, accelerator, chunk_size=config.chunk_size)
                norm = clip_gradients(accelerator, model, config.clip_norm or math.inf)
                loss = mean_terms({"loss": terms["loss"]})["loss"]  # the same on all ranks, so all of them stop
                step += 1
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    ids = distributed.all_gather(batch["ids"])
                    _stop(metrics, run, step=step, ids=ids, loss=loss, gradient_norm=norm)
                stepper.step()
                stepper.zero_grad()
                method.after_step()

                now = time.perf_counter()
                if step % config.log_every == 0 or step in (1, total_steps):
                    speed = (step - logged_step) * config.batch_size / (now - logged_at)
                    logged_step, logged_at = step, now
                    means = mean_terms(terms)
                    metrics.write("train", step=step, epoch=epoch, **means, learning_rate=rate, gradient_norm=norm,
                                  images_per_second=speed, seconds=now - begun)  # fmt: skip
                    progress.update(step, loss=loss, images_per_second=speed)
                ended = step_in_epoch + 1 == steps.stop
                if _is_due(config, length, step=step, epoch=epoch, ended=ended):
                    average_statistics(method)
                    states = gather_states()
                    following = (epoch + 1, 0) if ended else (epoch, step_in_epoch + 1)
                    where = Position(step, *following, now - begun)
                    if main:
                        save_checkpoint(run.checkpoints, method, optimizer, position=where, random=states)

            if elsewhere := gather_names(skipped) - skipped:  # what only other ranks came upon
                skipped |= elsewhere
                metrics.write("skipped", step=step, samples=sorted(elsewhere))

        if skipped:
            progress.note(f"{len(skipped)} samples could not be read and were replaced by the next; see metrics.jsonl")
        if main:
            progress.note("evaluating")
            _finish(run, config, splits, encoder=method.encoder, metrics=metrics, step=step,
                    facts={**facts, "training_seconds": round(time.perf_counter() - begun, 1),
                           "peak_memory_mb": peak_memory_mb(facts["device"])})  # fmt: skip
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    return run


def _finish(
    run: Run,
    config: TrainConfig,
    splits: Splits,
    *,
    encoder: nn.Module,
    metrics: MetricsFile,
    step: int,
    facts: dict[str, Any],
) -> None:
    """Export the encoder, evaluate it, write the model card."""
    channels, image_size = view_shape(config, splits.train)
    description = EncoderFile(
        encoder=config.encoder,
        channels=channels,
        image_size=image_size,
        feature_dim=encoder_dim(encoder),
        method=config.method.kind,
        source=splits.train.name,
        labels_used=labels_used(config),
    )
    export_encoder(run, encoder, description)
    begun = time.perf_counter()
    classifier, towers = load_classifier(run.folder, config), load_towers(run.folder, config)
    found = measure(config, load_encoder(run), splits, cache=FeatureCache(), classifier=classifier, towers=towers)
    facts = {**facts, "evaluation_seconds": round(time.perf_counter() - begun, 1)}
    write_evaluation(run.evals_file, found)
    for record in found.records:
        if record.encoder == "trained":
            metrics.write("eval", step=step, protocol=record.protocol, metric=record.metric, value=record.value)
    write_card(run, config, splits, description, evaluation=found, facts=facts)
    metrics.write("end", step=step, seconds=facts["training_seconds"], evaluation_seconds=facts["evaluation_seconds"],
                  image_views=facts["image_views"], peak_memory_mb=facts["peak_memory_mb"])  # fmt: skip


def _is_due(config: TrainConfig, length: Length, *, step: int, epoch: int, ended: bool) -> bool:
    """Whether a checkpoint follows this step: at the end of chosen epochs and of the run, and every so many steps."""
    by_epoch = ended and ((epoch + 1) % config.checkpoint_every_epochs == 0 or epoch + 1 == length.epochs)
    return by_epoch or (config.checkpoint_every_steps is not None and step % config.checkpoint_every_steps == 0)


def _stop(metrics: MetricsFile, run: Run, *, step: int, ids: Tensor, loss: float, gradient_norm: float) -> NoReturn:
    """Record and report a loss or gradient that is not finite; weights stay as they were before this step."""
    samples = ids.tolist()
    metrics.write("failed", step=step, loss=repr(loss), gradient_norm=repr(gradient_norm), ids=samples)
    shown = ", ".join(map(str, samples[:16])) + (f" and {len(samples) - 16} more" if len(samples) > 16 else "")
    saved = checkpoints(run.checkpoints)
    last = saved[-1] if saved else "none yet"
    raise FloatingPointError(
        f"step {step}: loss {loss}, gradient norm {gradient_norm}; training stopped before the weights were changed."
        f" Batch ids: {shown} (all of them in {run.metrics_file}). Last good checkpoint: {last}."
        " Look at these samples, or lower optimizer.learning_rate or raise method.temperature."
    )
