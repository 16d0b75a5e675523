"""One executor for each thing that a model may do to the machinery that runs it.

The modules `old_style` and `…_at_import` are not imported here: a spec names them with
`executor_module`.
"""

from behaviours import endings, escapes, growth, maps, records, reports, spreading, writing

__all__ = ["endings", "escapes", "growth", "maps", "records", "reports", "spreading", "writing"]
