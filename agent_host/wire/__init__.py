"""The Responses API as data: requests, responses, items, events and the one legal order of events.

Everything here is pure: no input or output, no clock, no event loop, no web framework.
"""
