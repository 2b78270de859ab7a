"""Hearing of calls to methods of whatever object, and leaving no trace."""

from __future__ import annotations

import abc
import copy
import inspect
import pickle

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from stas.hooks.observed import listen, unlisten


class Slots:
    __slots__ = ("added",)

    def __init__(self, added=1):
        self.added = added

    def step(self, value):
        return value + self.added


class Property:
    @property
    def step(self):
        return lambda value: value + 1


class Proxy:
    def __init__(self, inner):
        self.__dict__["inner"] = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __setattr__(self, name, value):
        setattr(self.inner, name, value)


class Plain:
    def step(self, value):
        return value + 1


@pytest.fixture
def told():
    heard = []

    def listener(owner, name, arguments):
        heard.append((name, arguments["value"], arguments["return"]))

    listener.heard = heard
    return listener


@pytest.mark.parametrize("make", [Plain, Slots, Property, lambda: Proxy(Plain())])
def test_calls_are_heard_and_nothing_is_left(make, told):
    owner = make()
    before = type(owner), dict(getattr(owner, "__dict__", {}))
    holder = listen(owner, "step", told)
    assert owner.step(2) == 3
    unlisten(holder, "step", told)
    assert owner.step(4) == 5
    assert told.heard == [("step", 2, 3)]
    assert (type(owner), dict(getattr(owner, "__dict__", {}))) == before
    assert type(holder) in (Plain, Slots, Property)


def test_a_method_set_on_the_object_or_its_class_meanwhile_is_heard_and_stays(told, monkeypatch):
    owner = Plain()
    holder = listen(owner, "step", told)
    monkeypatch.setattr(Plain, "step", lambda self, value: value + 10)
    assert owner.step(0) == 10
    owner.step = lambda value: value + 20
    assert owner.step(0) == 20
    unlisten(holder, "step", told)
    assert [result for _, _, result in told.heard] == [10, 20]
    assert owner.step(0) == 20
    del owner.step
    assert owner.step(0) == 10


@pytest.mark.parametrize("metaclass", [type, abc.ABCMeta])
def test_what_is_patched_on_the_class_of_the_object_outlasts_the_listening(metaclass, told):
    """As cache-dit exchanges `pipe.__class__.__call__`, and puts it back at any time."""
    cls = metaclass("Owned", (Plain,), {})
    owner, twin = cls(), cls()
    holder = listen(owner, "step", told)
    owner.__class__.__call__ = lambda self: "called"
    owner.__class__.step = lambda self, value: value + 10
    owner.__class__.added = 1
    assert (owner(), twin(), owner.step(0), cls.added) == ("called", "called", 10, 1)
    unlisten(holder, "step", told)
    assert (owner(), owner.step(0), owner.added) == ("called", 10, 1)
    holder = listen(owner, "step", told)
    del owner.__class__.__call__, owner.__class__.added
    assert not callable(owner) and not hasattr(cls, "added")
    unlisten(holder, "step", told)
    assert [result for _, _, result in told.heard] == [10]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_copies_are_of_the_objects_own_class(copied, told):
    owner = Slots(5)
    holder = listen(owner, "step", told)
    twin = copied(owner)
    assert type(twin) is Slots and twin.step(1) == 6
    assert told.heard == []
    unlisten(holder, "step", told)


def test_a_real_scheduler_looks_as_before(told):
    scheduler = FlowMatchEulerDiscreteScheduler()
    signature = inspect.signature(scheduler.set_timesteps)
    holder = listen(scheduler, "set_timesteps", lambda *_: None)
    assert inspect.signature(scheduler.set_timesteps) == signature
    assert type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    assert len(type(scheduler).from_config(scheduler.config).sigmas) == len(scheduler.sigmas)
    assert holder is scheduler


def test_what_has_no_class_to_exchange_is_refused(told):
    with pytest.raises(TypeError, match=r"list.append can't be followed.*handle.set_step"):
        listen([], "append", told)


def test_a_method_that_is_taken_wrapped_and_put_back_is_told_once_and_leaves_nothing(told):
    owner = Plain()
    holder = listen(owner, "step", told)
    step = owner.step
    owner.step = lambda value: step(value) * 2
    assert owner.step(1) == 4
    assert told.heard == [("step", 1, 4)]
    owner.step = step
    assert owner.step(1) == 2 and len(told.heard) == 2
    unlisten(holder, "step", told)
    assert vars(owner) == {} and owner.step(1) == 2


def test_an_object_made_from_the_class_of_a_heard_one_is_not_heard(told):
    scheduler = FlowMatchEulerDiscreteScheduler()
    holder = listen(scheduler, "set_timesteps", told)
    cls = type(scheduler)
    assert inspect.signature(cls) == inspect.signature(FlowMatchEulerDiscreteScheduler)
    like = [cls(), cls.from_config(scheduler.config, shift=3.0), cls(shift=2.0)]
    assert {type(each) for each in like} == {FlowMatchEulerDiscreteScheduler}
    assert [each.config.shift for each in like] == [1.0, 3.0, 2.0]

    class Own(cls):
        pass

    for other in (*like, Own(), Own.from_config(scheduler.config)):
        other.set_timesteps(3)
        assert len(other.timesteps) == 3
    assert told.heard == []
    unlisten(holder, "set_timesteps", told)
    assert type(scheduler) is FlowMatchEulerDiscreteScheduler
