"""How much CPU time, waiting and memory the library costs, beside others: `nox -s bench`."""
