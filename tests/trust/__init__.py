"`make trust`: see `__main__.py`."
