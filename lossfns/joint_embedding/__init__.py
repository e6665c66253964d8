"""Joint-embedding losses: two views of an example, without negatives."""
