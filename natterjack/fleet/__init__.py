"""What workers report and operators read: the roster, sessions, budgets, account limits, usage."""
