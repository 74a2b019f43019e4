"""The update scheme: hourly incremental steps on ID rows, daily full retrain, hand-over, schedule."""
