"""Objects by their names and configs, in the form that Keras writes, and what to say of names that are not there."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar

from fastmask.core.errors import REMEDY

Thing = TypeVar("Thing")
Names = Mapping[str, Any]


def missing(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package, which says what to do about a class of Keras that is not there.

    Imports of such a class say the same.
    """
    _Imports.packages.add(module)

    def refuse(name: str) -> Any:
        raise AttributeError(_no_attribute(module, name), name=name)

    return refuse


def _no_attribute(module: str, name: str) -> str:
    hint = f"; {REMEDY}" if name[:1].isupper() else ""
    return f"module {module!r} has no attribute {name!r}{hint}"


class _Imports:
    """The last finder of modules: what it is asked for is nowhere else."""

    packages: ClassVar[set[str]] = set()

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> None:
        """Raise ImportError for what looks like a class of a package with `missing`."""
        package, _, name = fullname.rpartition(".")
        if package in cls.packages and name[:1].isupper():
            raise ImportError(_no_attribute(package, name), name=fullname)


sys.meta_path.append(_Imports)


def written(
    module: str | None, class_name: str, config: Any, registered_name: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return what Keras writes of an object: where its class is, the class and the config."""
    found = {"module": module, "class_name": class_name, "config": config, "registered_name": registered_name}
    return {**found, **more}


def made(cls: Any, config: Mapping[str, Any]) -> Any:
    """Return a new object from its config: by `from_config` if there is one, else by a call with the arguments."""
    return cls.from_config(dict(config)) if hasattr(cls, "from_config") else cls(**config)


def arguments(thing: Any) -> dict[str, Any]:
    """Return the arguments of an object's constructor, which are attributes of the same names."""
    return {name: getattr(thing, name) for name in signature(type(thing)).parameters}


class Configured:
    """Base of what is written as the arguments of its constructor."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a new object with the arguments in `config`."""
        return cls(**config)


def snake_case(class_name: str) -> str:
    """Return a class name as Keras writes it in files and takes it for a class: ``"simple_rnn"``."""
    words = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()


def in_snake_case(classes: Iterable[type[Thing]]) -> dict[str, type[Thing]]:
    """Return classes by their names in snake case."""
    return {snake_case(cls.__name__): cls for cls in classes}


class Registry(Generic[Thing]):
    """The classes of one kind under their names; makes objects of names and configs, and configs of objects.

    Parameters
    ----------
    kind : str
        What an object is called in errors.
    base : type
        The class that the objects are instances of.
    module : str
        Where Keras has the classes.
    classes : mapping of str to class
        Each under the name that errors list. The name of the class is known as well; letter case does not matter.
    aliases : mapping of str to class, optional
        More names, in lower case.
    takes : str
        What `get` takes, for errors.
    from_function : callable, optional
        Makes an object of anything else that can be called; without it `get` refuses that.
    tells_name : bool, default False
        Whether an object that is made by a name gets that name, as it was spelled, for its argument `name`.
    """

    def __init__(
        self,
        kind: str,
        base: type[Thing],
        module: str,
        classes: Mapping[str, type[Any]],
        aliases: Mapping[str, type[Any]] = MappingProxyType({}),
        *,
        takes: str,
        from_function: Callable[[Any], Any] | None = None,
        tells_name: bool = False,
    ) -> None:
        self.kind, self.base, self.module, self.takes = kind, base, module, takes
        self.from_function, self.tells_name = from_function, tells_name
        self.names = sorted([*classes, *aliases])
        self._classes = {cls.__name__.lower(): cls for cls in classes.values()} | dict(classes) | dict(aliases)

    def find(self, name: str) -> Callable[..., Thing] | None:
        """Return the class of a name, None if there is none."""
        return self._classes.get(name.lower())

    def get(self, identifier: Any) -> Thing:
        """Return the object that a name, a class, a config, a function or the object itself stands for.

        Raises
        ------
        ValueError
            For an unknown name; the message lists the known ones.
        TypeError
            For anything else.
        """
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, type) and issubclass(identifier, self.base):
            return identifier()
        if isinstance(identifier, Mapping):
            return self.deserialize(identifier)
        if isinstance(identifier, str):
            return self._named(identifier)
        if self.from_function is None or not callable(identifier):
            raise TypeError(f"{self.kind}: expected {self.takes}, got {identifier!r}")
        thing: Thing = self.from_function(identifier)
        return thing

    def serialize(self, thing: Any) -> dict[str, Any]:
        """Return the class name and config of an object; TypeError if it has none."""
        if not isinstance(thing, self.base):
            raise TypeError(f"{self.kind}: expected an instance of {self.base.__name__} to serialize, got {thing!r}")
        return written(self.module, type(thing).__name__, thing.get_config())  # type: ignore[attr-defined]

    def deserialize(self, config: Mapping[str, Any], custom_objects: Names | None = None) -> Thing:
        """Return an object from what `serialize` returned, or Keras wrote.

        Parameters
        ----------
        config : mapping
            With an entry "class_name" and, unless that is all, "config".
        custom_objects : mapping of str to class or function, optional
            Those of the user; they come first.

        Raises
        ------
        ValueError
            For an unknown name; the message lists the known ones.
        """
        own, name, inner = custom_objects or {}, str(config.get("class_name")), config.get("config")
        if name == "function" and isinstance(inner, str) and inner in own:
            return self.get(own[inner])
        found = own.get(str(config.get("registered_name")), own.get(name, self.find(name)))
        if found is None:
            raise self._unknown(name)
        return self.get(made(found, inner or {}))

    def _named(self, name: str) -> Thing:
        cls = self.find(name)
        if cls is None:
            raise self._unknown(name)
        return cls(name=name) if self.tells_name else cls()

    def _unknown(self, name: str) -> ValueError:
        return ValueError(f"{self.kind}: expected one of {', '.join(self.names)}, got {name!r}")
