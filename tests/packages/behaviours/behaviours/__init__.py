"""One executor for each thing that a model may do to the machinery that runs it.

The modules `old_style`, `raises_at_import`, `ends_at_import` and `hangs_at_import` are not imported
here: a spec names them with `executor_module`.
"""

from behaviours import endings, growth, records, reports, spreading, writing

__all__ = ["endings", "growth", "records", "reports", "spreading", "writing"]
