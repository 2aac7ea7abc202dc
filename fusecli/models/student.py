"""The paper's student (arXiv 2504.07029): the teacher's design, narrow and without text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusecli.models.teacher import Teacher


class Student(Teacher):
    """Teacher of width 16 without text guidance; ``config`` takes the teacher's other arguments.

    2.8 million parameters, 9.6 % of the teacher's, and 9 % of its time on a CPU. Width 16 and expansion 2 are the
    paper's; alone they would leave 4.4 million parameters and a fifth of the time. So every stack has one block, the
    refinement too (the paper: two), and the windows of the deeper levels have fewer heads.
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
