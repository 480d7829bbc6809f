"""Fields that may be read only once they are there."""

from typing import Generic, Optional, TypeVar, overload

Value = TypeVar("Value")


class Computed(Generic[Value]):
    """A dataclass field that is there once it has been set to something other than None.

    Reading it before raises an AttributeError, as an absent field of Detectron2's `Instances` does,
    so `hasattr` tells whether it is there.
    """

    def __init__(self, required: str = "") -> None:
        """Name what has to be in `requires` of a head, if that is not the field itself."""
        self._required = required

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, owner: None, cls: type) -> None: ...

    @overload
    def __get__(self, owner: object, cls: type) -> Value: ...

    def __get__(self, owner: object, cls: type) -> Optional[Value]:
        if owner is None:
            return None  # read by `dataclass`: the default
        value = owner.__dict__[self._name]
        if value is None:
            raise AttributeError(
                f"{cls.__name__}.{self._name} was not computed. A head that reads it names "
                f"{self._required or self._name!r} in `requires`; a teacher has no labels and no "
                "proposals of its own."
            )
        return value

    def __set__(self, owner: object, value: Optional[Value]) -> None:
        owner.__dict__[self._name] = value
