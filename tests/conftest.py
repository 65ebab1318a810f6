import os

# Read when Ray is first imported, by whatever test module that is; no token file in the home of who tests.
os.environ["RAY_AUTH_MODE"] = "disabled"
