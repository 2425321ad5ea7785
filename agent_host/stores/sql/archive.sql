-- What the export of one conversation reads. Nothing that serves a user runs these statements.

-- responses_in_conversation --
-- The responses in a conversation, oldest first.
SELECT id FROM responses WHERE user_id = ? AND conversation = ? ORDER BY created_at, rowid

-- items_of_conversation --
-- All items of a conversation, and whether they wait for the next turn.
SELECT id, body, waiting FROM conversation_items WHERE user_id = ? AND conversation = ? ORDER BY position
