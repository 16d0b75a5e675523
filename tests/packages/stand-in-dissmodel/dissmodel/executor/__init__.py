"""The registry, and nothing else."""

from __future__ import annotations

from typing import ClassVar


class ExecutorRegistry:
    _known: ClassVar[dict[str, type]] = {}

    @classmethod
    def register(cls, executor: type) -> None:
        cls._known[executor.name] = executor

    @classmethod
    def list(cls) -> list[str]:
        return list(cls._known)

    @classmethod
    def get(cls, name: str) -> type:
        return cls._known[name]


class ModelExecutor:
    def __init_subclass__(cls) -> None:
        ExecutorRegistry.register(cls)
