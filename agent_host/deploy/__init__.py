"""Bringing a workflow to Microsoft Foundry as a hosted agent, and finding out why a deployed one is silent.

Rule 1: what is deployed, what comes next and what an error means are decided in pure functions over plain data; only
        `deploy.py` talks to the service.
Rule 2: azure and openai are loaded when the service is talked to, so a plan can be made and shown without them.
"""
