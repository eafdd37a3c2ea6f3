"""Everything with parameters. Knows no data and no loss."""
