"""What workers report and operators read: roster, sessions, budgets, account limits, usage."""
