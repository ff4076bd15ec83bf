"""What ``import probe`` promises."""

import importlib
import pkgutil
from types import FunctionType, ModuleType

import pytest

import probe

ROOMS = [name for _, name, package in pkgutil.iter_modules(probe.__path__, "probe.") if package]


def test_every_promised_name_can_be_imported() -> None:
    """And nothing else is reachable by a slip of the pen."""
    for name in probe.__all__:
        assert not isinstance(getattr(probe, name), ModuleType), name
    assert set(dir(probe)) == set(probe.__all__)
    with pytest.raises(AttributeError, match="analyse"):
        _ = probe.analyse  # type: ignore[attr-defined]


def test_the_list_and_the_places_agree() -> None:
    """A name that is promised is one that is looked up, and the other way round."""
    assert set(probe.__all__) - {"__version__"} == set(probe._WHERE)


def test_verbs_are_functions_whatever_was_imported_before() -> None:
    """``probe.analyze`` is a function even though a module has that name too."""
    for verb in ("analyze", "observe", "edit", "capture"):
        importlib.import_module(f"probe.analysis.{verb}")
        assert isinstance(getattr(probe, verb), FunctionType), verb


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_list_is_what_it_has(room: str) -> None:
    """``__all__`` of every room names what can be imported from it, once."""
    module = importlib.import_module(room)
    promised = getattr(module, "__all__", [])
    assert len(promised) == len(set(promised))
    for name in promised:
        assert hasattr(module, name), f"{room} promises {name}"


def test_every_public_thing_says_what_it_is() -> None:
    """Each promised name has a docstring of its own."""
    for name in set(probe.__all__) - {"__version__"}:
        thing = getattr(probe, name)
        assert (getattr(thing, "__doc__", "") or "").strip(), name
