"""stub"""
run_power_cuts=None
