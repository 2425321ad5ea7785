"""Drawings of a workflow. `workflow_viz` is what users see; `picture` says what is drawn, the rest how it looks."""
