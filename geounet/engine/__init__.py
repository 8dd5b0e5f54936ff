"""One scene on the cluster: plan, driver, ledger. Knows nothing of pixels."""
