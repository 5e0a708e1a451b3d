"""What sessions use and what it costs: ledgers, prices, tallies, budgets, reports."""
