"""The HTTP side: the only package that knows Starlette."""
