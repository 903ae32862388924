"""The callbacks a training loop offers."""

from __future__ import annotations

from typing import Any


class Hook:
    """Override what is needed; the rest does nothing."""

    def before_train(self, *args: Any, **kwargs: Any) -> None:
        """Training begins."""

    def after_train(self, *args: Any, **kwargs: Any) -> None:
        """Training has ended."""

    def before_step(self, *args: Any, **kwargs: Any) -> None:
        """A step begins."""

    def after_step(self, *args: Any, **kwargs: Any) -> None:
        """A step has ended."""
