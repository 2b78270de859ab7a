"""What is reachable from an object, to see that nothing of stas is."""

from __future__ import annotations

import functools
import types
from pathlib import Path

import torch

import stas

SOURCE = str(Path(stas.__file__).parent)


def of_stas(*roots: object) -> list[str]:
    """Where something of stas can be reached from the roots: objects, classes, functions."""
    found: list[str] = []
    seen: set[int] = set()
    waiting = [(root, type(root).__name__) for root in roots]
    while waiting:
        thing, path = waiting.pop()
        if id(thing) in seen or isinstance(thing, types.ModuleType | type | str | bytes | int):
            continue
        seen.add(id(thing))
        code = getattr(thing, "__code__", None)
        if (
            any(_of_stas(cls) for cls in type(thing).__mro__)
            or any(_is_ours(value) for value in vars(type(thing)).values())
            or (isinstance(code, types.CodeType) and code.co_filename.startswith(SOURCE))
        ):
            found.append(path)
        waiting += [(part, f"{path}{name}") for name, part in _parts(thing)]
    return found


def _of_stas(cls: type) -> bool:
    return str(cls.__module__).partition(".")[0] == "stas"


def _is_ours(value: object) -> bool:
    return _of_stas(type(value)) or (
        isinstance(value, types.FunctionType) and value.__code__.co_filename.startswith(SOURCE)
    )


def _parts(thing: object):
    if isinstance(thing, dict):
        for key, value in thing.items():
            yield f"[{key!r}]"[:40], value
            yield ".key", key
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from ((f"[{index}]", value) for index, value in enumerate(thing))
    elif isinstance(thing, functools.partial):
        yield from ((".func", thing.func), (".args", thing.args), (".keywords", thing.keywords))
    elif isinstance(thing, types.MethodType):
        yield from ((".__self__", thing.__self__), (".__func__", thing.__func__))
    elif isinstance(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            try:
                yield ".cell", cell.cell_contents
            except ValueError:  # an empty cell
                continue
        yield ".defaults", (thing.__defaults__, thing.__kwdefaults__)
    if isinstance(thing, torch.Tensor):
        yield ".hooks", thing._backward_hooks
        return
    yield from ((f".{name}", value) for name, value in getattr(thing, "__dict__", {}).items())
    for cls in type(thing).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name) and not name.startswith("__"):
                yield f".{name}", getattr(thing, name)
