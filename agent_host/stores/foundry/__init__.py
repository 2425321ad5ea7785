"""A store in the storage of a Foundry project, for hosted agents, whose disk is empty whenever a session begins.

The platform has no transactions, only single values with ETags. So what belongs together is kept together: all records
whose ids share a partition key (a conversation, or a chain of responses with its branches, with their state) are one
*family*. A process works on a copy of a family's rows in memory, with the very functions that write a SQLite file, and
what they have changed is published as a whole: large parts first, then the family's *head*, a value that is replaced
only if nobody else has replaced it meanwhile. Writing the head decides. Who was late takes over what the other has
written and runs its function again.
"""
