-- What the export of one conversation reads. Nothing that serves a user runs these statements.

-- responses_in_conversation --
-- The responses in a conversation, oldest first.
SELECT id FROM responses WHERE user_id = ? AND conversation = ? ORDER BY created_at, rowid

-- items_of_conversation --
-- All items of a conversation, and whether they wait for the next turn.
SELECT id, body, waiting FROM conversation_items WHERE user_id = ? AND conversation = ? ORDER BY position

-- heard_at_commit --
-- What the turn that has made a commit has added to what its state has heard.
SELECT COALESCE(c.heard, r.items)
FROM commits AS c LEFT JOIN responses AS r ON r.user_id = c.user_id AND r.id = c.session_id AND r.commit_id = c.id
WHERE c.user_id IN (?, '*') AND c.id = ?

-- calls_at_commit --
-- The questions that were asked at a commit, in order, and by which responses.
SELECT response_id, call_id, request_id FROM calls WHERE user_id = ? AND commit_id = ? ORDER BY position

-- next_call --
-- The position behind the questions of a response and those at a commit.
SELECT COALESCE(MAX(position) + 1, 0) FROM calls WHERE user_id = ? AND (response_id = ? OR commit_id = ?)

-- delete_calls_of_response --
-- Forget the questions that a response has left behind.
DELETE FROM calls WHERE user_id = ? AND response_id = ?
