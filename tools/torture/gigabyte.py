"""stub"""
run_gigabyte=None
