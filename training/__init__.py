"""Training: a loop that knows a task (core), its pictures (data), and two kinds of task (adapter, redux)."""
