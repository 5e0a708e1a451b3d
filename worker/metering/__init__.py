"""Measuring the use and cost of sessions: ledgers, prices, tallies, budgets, reports."""
