"""Every method is found by its name, whatever was imported before."""

import importlib
import pkgutil

import pytest

import probe
from probe import circuits
from probe.circuits import METHODS, method
from probe.errors import UnknownNameError


def test_no_module_is_named_like_a_method() -> None:
    """A module that is imported becomes an attribute of its package, and would stand where the function is asked."""
    modules = {one.name for one in pkgutil.iter_modules(circuits.__path__)}
    assert not modules & set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_functions_of_the_package(name: str) -> None:
    """Also when every module of the room was imported."""
    for one in pkgutil.iter_modules(circuits.__path__):
        importlib.import_module(f"probe.circuits.{one.name}")
    found = getattr(probe.circuits, name)
    assert callable(found)
    assert found is method(name)
    assert found.__doc__


def test_an_unknown_method_is_named() -> None:
    """With the nearest name."""
    with pytest.raises(UnknownNameError, match="relp"):
        method("rellp")
    with pytest.raises(AttributeError, match="activation_patching"):
        _ = circuits.activation_patch
