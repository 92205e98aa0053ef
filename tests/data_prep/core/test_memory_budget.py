"""Threads together stay within a memory budget."""

import threading
import time

from data_prep.core.memory_budget import MemoryBudget


def test_the_budget_is_never_exceeded_and_a_thread_that_needs_more_runs_alone():
    budget, held, snapshots = MemoryBudget(10), [], []

    def work(amount: int) -> None:
        with budget.holding(amount):
            held.append(amount)
            snapshots.append(list(held))
            time.sleep(0.002)
            held.remove(amount)

    threads = [threading.Thread(target=work, args=[amount]) for amount in [4, 3, 25, 6, 1, 4, 10, 3] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(sum(together) <= 10 or together == [25] for together in snapshots) and len(snapshots) == 24
