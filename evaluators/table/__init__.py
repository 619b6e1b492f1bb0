"""Reading and checking of tables of published accuracies, without the networks."""

from evaluators.table.checks import check_table
from evaluators.table.columns import Column, parse_column
from evaluators.table.file import TableText, read_cells, read_table
from evaluators.table.slopes import Slopes, error_slopes

__all__ = ["Column", "Slopes", "TableText", "check_table", "error_slopes", "parse_column", "read_cells", "read_table"]
