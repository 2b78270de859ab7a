"""Hearing of calls to an object's methods, whatever the object is, and leaving no trace of it.

While somebody listens, the object has a class of its own beneath its class: the same name, and
properties in place of the methods. So what lies in the object's dictionary stays where it is and a
method that anybody sets anew is heard too; slots, properties and methods patched on the class work
as ever, whether it is named or taken from the object; and copies, shallow, deep or pickled, are of
the object's own class.
"""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Callable
from functools import update_wrapper
from threading import get_ident
from typing import Any

# Given an object, the name of the method, and its arguments by name, what it returned as "return".
Listener = Callable[[Any, str, dict[str, Any]], None]
_TOLD = "_stas_tells_of"  # on what stands in for a method: that method
_BASE = "_stas_observes"  # on the classes made here: what they stand for


def listen(owner: Any, name: str, listener: Listener) -> Any:
    """Have a listener told after each call of a method.

    Args:
        owner: The object; a proxy leads to the one that has the method.
        name: The method.
        listener: What is told.

    Returns:
        What listens, for `unlisten`.

    Raises:
        TypeError: The object's class can't be exchanged, as of objects of C extensions.
    """
    holder = getattr(getattr(owner, name), "__self__", owner)
    cls = type(holder)
    if _BASE not in vars(cls):
        cls = _observing(cls)
        try:
            object.__setattr__(holder, "__class__", cls)
        except TypeError as error:
            raise TypeError(
                f"The calls of {type(holder).__name__}.{name} can't be followed: {error}. Steer "
                "the bare transformer, and tell the step by handle.set_step(i, n)."
            ) from error
    cls.heard.setdefault(name, []).append(listener)
    if name not in vars(cls):
        type.__setattr__(cls, name, _Heard(cls, name))
    return holder


def unlisten(holder: Any, name: str, listener: Listener) -> None:
    """End what `listen` began; the object has its own class again when nobody listens any more."""
    cls: Any = type(holder)
    if _BASE not in vars(cls):
        return
    listeners = cls.heard.get(name, [])
    if listener in listeners:
        listeners.remove(listener)
    if not any(cls.heard.values()):
        object.__setattr__(holder, "__class__", getattr(cls, _BASE))


def _observing(base: type) -> Any:
    """A class for one object: it is its base but for what is heard."""

    def reduce(self: Any, protocol: Any) -> Any:
        _, _, *state = super(cls, self).__reduce_ex__(protocol)
        return copyreg._reconstructor, (base, object, None), *state  # type: ignore[attr-defined]

    def new(made: type, *args: Any, **kwargs: Any) -> Any:
        if made is cls:  # type(owner)(...) makes one like the object, and not one that is heard
            return base(*args, **kwargs)
        make: Any = base.__new__
        return make(made) if make is object.__new__ else make(made, *args, **kwargs)

    update_wrapper(new, base.__init__)  # type: ignore[misc]  # its signature is meant
    names: dict[str, Any] = {
        "__slots__": (),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reduce,
        "__new__": new,
        _BASE: base,
        "heard": {},
        "running": set(),
    }
    metaclass: Any = type(base)

    class Observing(metaclass):  # type: ignore[misc]  # a base that is known when this runs
        """What is set on the class of an object is set on its own class, and outlasts this one."""

        def __setattr__(cls, name: str, value: Any) -> None:
            setattr(base, name, value)

        def __delattr__(cls, name: str) -> None:
            delattr(base, name)

    # Made past its metaclass, which may count its classes or set what its base has already.
    cls: Any = type.__new__(Observing, base.__name__, (base,), names)
    return cls


class _Heard:
    """In place of a method: finds it as the object's own class would, and tells of its calls.

    It is a data descriptor, so that it comes before what lies in the object's dictionary.
    """

    def __init__(self, cls: Any, name: str) -> None:
        self.cls = cls
        self.name = name

    def __get__(self, owner: Any, cls: Any = None) -> Any:
        if owner is None:
            return getattr(getattr(cls, _BASE), self.name)
        method = getattr(owner, "__dict__", {}).get(self.name)
        if method is None:
            method = getattr(super(self.cls, owner), self.name)
        if type(owner) is not self.cls:  # of a class that was made from the heard one's
            return method
        listeners, name = self.cls.heard[self.name], self.name
        running, here = self.cls.running, (self.name, get_ident())

        def told(*args: Any, **kwargs: Any) -> Any:
            if here in running:  # somebody wraps what he took from here: one call is told once
                return method(*args, **kwargs)
            running.add(here)
            try:
                result = method(*args, **kwargs)
            finally:
                running.discard(here)
            bound = inspect.signature(method).bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = dict(bound.arguments) | {"return": result}
            for listener in tuple(listeners):
                listener(owner, name, arguments)
            return result

        update_wrapper(told, method)
        vars(told)["__self__"] = owner  # as a bound method's
        vars(told)[_TOLD] = method
        return told

    def __set__(self, owner: Any, value: Any) -> None:
        value = getattr(value, _TOLD, value)  # what was taken from here is put back
        if getattr(value, "__self__", None) is owner:
            owner.__dict__.pop(self.name, None)  # its class has it
        else:
            owner.__dict__[self.name] = value

    def __delete__(self, owner: Any) -> None:
        try:
            del owner.__dict__[self.name]
        except KeyError:
            raise AttributeError(self.name) from None
