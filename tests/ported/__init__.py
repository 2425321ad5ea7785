"""What users of agent_framework's workflows do, as programs whose results are recorded from there."""
