"""The paper's student (arXiv 2504.07029): the teacher's design, narrow and without text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusecli.models.teacher import Teacher


class Student(Teacher):
    """Teacher of width 16 without text guidance; ``config`` takes the teacher's other arguments.

    2.8 million parameters, 9.6 % of the teacher's, and a tenth of its time on a CPU. Width 16, expansion 2 and two
    blocks of refinement are the paper's; alone they would leave 4.7 million parameters and a quarter of the time. So
    every stack has one block, the refinement too, and the windows of the deeper levels have fewer heads.
    """

    def __init__(
        self,
        width: int = 16,
        blocks: Sequence[int] = (1, 1, 1, 1),
        refinement: int = 1,
        expansion: float = 2.0,
        spatial_heads: Sequence[int] = (1, 1, 2, 2),
        **config: Any,
    ) -> None:
        super().__init__(width, blocks, refinement, expansion, spatial_heads=spatial_heads, **{"text_dim": 0, **config})
