"""Classes with one instance."""

from __future__ import annotations

from typing import Any


class Singleton(type):
    """Metaclass: calling the class always gives the same instance."""

    _instances: dict[type, Any] = {}  # noqa: RUF012 - one dict for all classes on purpose

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """The instance, made at the first call."""
        if cls not in Singleton._instances:
            Singleton._instances[cls] = super().__call__(*args, **kwargs)
        return Singleton._instances[cls]
