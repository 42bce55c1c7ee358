"""The tiny environment is built in `tests/tiny.py` and handed out by `tests/conftest.py`, for every room."""
