"""Wide values, a portion of their columns at a time: the sums of more columns than `plan.portion` would not fit."""

from dataclasses import replace

from probe_kernels.fused import plan
from probe_kernels.fused.launch import RowAnswers, RowLaunch, Visited, sweep_rows
from probe_kernels.fused.plan import Tiles
from probe_kernels.fused.problem import Problem


def sweep(
    problem: Problem, launch: RowLaunch, tiles: Tiles, answers: RowAnswers, visited: Visited | None = None
) -> None:
    """Fill the answers of the problem's rows, as `sweep_rows` does, in as many launches as the values are wide.

    Statistics come from the first; the others make the scores once more and their columns of z alone.
    """
    scores, whole = problem.scores, answers.z
    value = scores.value
    width = plan.portion(scores.query.dtype)
    if value is None or whole is None or value.shape[3] <= width:
        sweep_rows(problem, launch, tiles, answers, visited)
        return
    for start in range(0, value.shape[3], width):
        columns = slice(start, min(start + width, value.shape[3]))
        part = replace(problem, scores=replace(scores, value=value[..., columns]))
        z = whole.new_zeros((*whole.shape[:4], columns.stop - start))
        sweep_rows(
            part,
            RowLaunch(z=True, wide=launch.wide) if start else launch,
            tiles,
            replace(answers, z=z),
            visited,
        )
        whole[..., problem.rows, columns] = z[..., problem.rows, :]
