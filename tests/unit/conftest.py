"""What all unit tests share."""

from hypothesis import settings

# An example may take long because the machine is busy; that is no failure.
settings.register_profile("nekko", deadline=None)
settings.load_profile("nekko")
