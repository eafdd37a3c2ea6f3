"""An encoder in the layouts of other libraries."""
