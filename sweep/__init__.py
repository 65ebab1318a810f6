"""The service: propose, run, stop, resume, export."""

import os

# Ray reads this once, when it is first imported, wherever that is: so it stands here, before any of it.
os.environ.setdefault("RAY_AUTH_MODE", "token")
