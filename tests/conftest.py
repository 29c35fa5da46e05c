"""Settings that hold for every test."""

import os

import hypothesis

# A deadline per example would measure the machine; a hang is ended by the test's timeout.
hypothesis.settings.register_profile("here", deadline=None, print_blob=True)
# In CI the same examples every time: a red run can be looked at and run again.
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")
