"""Spot, on-demand or wait, under a deadline: pure policies, the same code in the simulator and in a live run.

Nothing here knows a cloud, a run or a clock. numpy (the extra `deadline`) is needed by all but `safety`.
"""
