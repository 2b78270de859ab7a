"""The training loop that every stage uses: data parallel, resumable, averaged, with progress."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from stas.files import whole_file
from training.recipe import Stage

SAVE_EVERY_SECONDS = 60.0
console = Console(highlight=False)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def start_processes() -> None:
    """Join the other processes when torchrun started this one."""
    if "RANK" in os.environ:
        dist.init_process_group("gloo")


def log(text: str) -> None:
    if rank() == 0:
        console.print(text)


def generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Random numbers of one step of one process: the same again when a run is resumed."""
    return torch.Generator(device).manual_seed(hash((seed, step, rank())) % 2**31)


class Objective(Protocol):
    """What a stage minimises."""

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        """The data of a step, from its number alone, on the device."""
        ...

    def loss(self, *batch: torch.Tensor) -> torch.Tensor:
        """The loss on a batch; it never waits for the device, so that it can be replayed."""
        ...


class _Gradients:
    """Computes the loss and leaves its gradients in the parameters.

    On CUDA the work of each batch shape is captured once as a graph and then replayed: these
    small networks launch thousands of kernels a step, which would take longer than they run.
    """

    def __init__(self, objective: Objective, parameters: list[nn.Parameter], bf16: bool) -> None:
        self.objective, self.parameters = objective, parameters
        self.on_cuda, self.bf16 = parameters[0].is_cuda, bf16
        self.graphs: dict[
            tuple[torch.Size, ...],
            tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...], torch.Tensor],
        ] = {}
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)

    def __call__(self, step: int) -> torch.Tensor:
        batch = self.objective.batch(step)
        if not self.on_cuda:
            return self._compute(batch)
        shapes = tuple(tensor.shape for tensor in batch)
        if shapes not in self.graphs:
            self.graphs[shapes] = self._capture(batch)
        graph, inputs, loss = self.graphs[shapes]
        for place, tensor in zip(inputs, batch, strict=True):
            place.copy_(tensor)
        graph.replay()
        return loss.clone()

    def _compute(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_zero_(gradients)
        with torch.autocast(
            "cuda", torch.bfloat16, enabled=self.on_cuda and self.bf16, cache_enabled=False
        ):
            loss = self.objective.loss(*batch)
        loss.backward()
        return loss.detach()

    def _capture(
        self, batch: tuple[torch.Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...], torch.Tensor]:
        inputs = tuple(tensor.clone() for tensor in batch)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._compute(inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._compute(inputs)
        return graph, inputs, loss


def train(
    name: str,
    modules: Mapping[str, nn.Module],
    stage: Stage,
    objective: Objective,
    folder: Path,
    *,
    snapshots: Collection[int] = (),
) -> float:
    """Optimise the modules and leave their moving average in them.

    Args:
        name: Of the stage; its checkpoint is `folder / f"{name}.ckpt"`.
        modules: What is trained, by name.
        stage: How.
        objective: What is minimised.
        folder: Where the checkpoint is kept; a run that was stopped goes on from there.
        snapshots: Steps after which the moving average is also kept, as `snapshot_path` says.

    Returns:
        The seconds that it took, those before a stop too.
    """
    named = [(f"{m}.{n}", p) for m, module in modules.items() for n, p in module.named_parameters()]
    parameters = [parameter for _, parameter in named]
    decayed = [p for n, p in named if p.ndim >= 2 and "table" not in n]
    rest = [p for n, p in named if not (p.ndim >= 2 and "table" not in n)]
    on_cuda = parameters[0].is_cuda
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": rest}],
        lr=stage.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        fused=on_cuda,
    )
    average = [parameter.detach().clone() for parameter in parameters]
    path = folder / f"{name}.ckpt"
    started = time.monotonic()
    first, before = 0, 0.0
    if path.is_file():
        saved = torch.load(path, map_location=parameters[0].device, weights_only=True)
        first, before = saved["step"], saved["seconds"]
        optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for parameter, value in zip(parameters, saved["parameters"], strict=True):
                parameter.copy_(value)
        average = saved["average"]
        log(f"{name}: going on from step {first}")

    def save(step: int) -> None:
        if rank() == 0:
            temporary = path.with_suffix(".tmp")
            seconds = before + time.monotonic() - started
            state = {"step": step, "seconds": seconds}
            state["parameters"] = [p.detach() for p in parameters]
            state |= {"average": average, "optimizer": optimizer.state_dict()}
            torch.save(state, temporary)
            temporary.replace(path)

    def take_snapshot(step: int) -> None:
        if rank() == 0 and step in snapshots:
            tensors = {n: value.bfloat16() for (n, _), value in zip(named, average, strict=True)}
            with whole_file(snapshot_path(folder, name, step)) as temporary:
                save_file(tensors, temporary)

    if first == 0:
        take_snapshot(0)
    for module in modules.values():
        module.train()
    gradients = _Gradients(objective, parameters, stage.bf16)
    begun = saved_at = shown_at = time.monotonic()
    losses: list[torch.Tensor] = []
    for step in range(first, stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * _schedule(stage, step)
        loss = gradients(step)
        _average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        decay = min(stage.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        take_snapshot(step + 1)
        losses.append(loss)
        now = time.monotonic()
        if now - shown_at > 10 or step + 1 == stage.steps:
            shown_at = now
            mean = torch.stack(losses).mean().item()
            losses.clear()
            left = (now - begun) / (step + 1 - first) * (stage.steps - step - 1)
            log(f"{name}: step {step + 1} of {stage.steps}, loss {mean:.4f}, {left:.0f} s left")
        if now - saved_at > SAVE_EVERY_SECONDS:
            saved_at = now
            save(step + 1)
    save(stage.steps)
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)
    for module in modules.values():
        module.eval()
    return before + time.monotonic() - started


def snapshot_steps(steps: int) -> list[int]:
    """The steps at which a run of so many is looked at: the start, then by factors of root two."""
    return sorted({0} | {round(steps / 2 ** (half / 2)) for half in range(16)})


def snapshot_path(folder: Path, name: str, step: int) -> Path:
    """Where `train` keeps the moving average after a step: bfloat16, by module and parameter."""
    return folder / f"{name}-{step:06}.safetensors"


def _schedule(stage: Stage, step: int) -> float:
    """The learning rate of a step as a share of its flat value."""
    done = step / stage.steps
    fall = min(1.0, (1 - done) / max(1e-9, 1 - stage.flat))
    return min(1.0, (step + 1) / stage.warmup) * fall


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    if world_size() == 1:
        return
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= world_size()
    offset = 0
    for parameter in parameters:
        assert parameter.grad is not None
        part = flat[offset : offset + parameter.numel()]
        parameter.grad.copy_(part.view_as(parameter))
        offset += parameter.numel()
