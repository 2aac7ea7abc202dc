"""The base student (arXiv 2504.07029): the teacher's design, narrow and without text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusecli.models.teacher import Teacher


class Student(Teacher):
    """Teacher of width 16 without text guidance; ``config`` takes the teacher's other arguments.

    Beside the paper's savings (width, two refinement blocks, expansion 2) each stack has one block, and the windows of
    the deeper levels have fewer heads: with those alone it would have more than a tenth of our teacher's parameters and
    a quarter of its time, since the teacher is narrower than the paper's.
    """

    def __init__(
        self,
        width: int = 16,
        blocks: Sequence[int] = (1, 1, 1, 1),
        refinement: int = 2,
        expansion: float = 2.0,
        spatial_heads: Sequence[int] = (1, 1, 2, 2),
        **config: Any,
    ) -> None:
        super().__init__(width, blocks, refinement, expansion, spatial_heads=spatial_heads, **{"text_dim": 0, **config})
