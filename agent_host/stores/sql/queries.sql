-- Every statement of the SQL stores. `*` is the partition of root commits, which every user may read.

-- insert_response --
-- Store a response; changes no row if the user has one of that id, finished or in flight.
INSERT INTO responses
    (user_id, id, previous_response_id, start_commit, commit_id, conversation, status,
     created_at, completed_at, delta_lengths, input, body, background, items, log_ended_at)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
WHERE NOT EXISTS (SELECT 1 FROM turns WHERE user_id = ? AND id = ?)
ON CONFLICT DO NOTHING

-- select_response --
-- Everything of one response.
SELECT id, previous_response_id, start_commit, commit_id, conversation, status,
       created_at, completed_at, delta_lengths, input, body, background, items
FROM responses WHERE user_id = ? AND id = ?

-- select_resume_point --
-- What a turn needs to continue a response; one in flight that has made no commit has nothing to continue from.
SELECT id, commit_id, status FROM responses WHERE user_id = ? AND id = ?
UNION ALL
SELECT id, CASE WHEN commit_id = start_commit THEN '' ELSE commit_id END, status
FROM turns WHERE user_id = ? AND id = ?

-- delete_response --
-- Remove a response.
DELETE FROM responses WHERE user_id = ? AND id = ?

-- insert_item_place --
-- Note that a response has brought an item.
INSERT INTO item_places (user_id, id, response_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING

-- delete_item_place --
-- Forget an item that this response brought.
DELETE FROM item_places WHERE user_id = ? AND id = ? AND response_id = ?

-- select_item_places --
-- The responses that brought items, newest first; the three dots stand for one `?` for each id.
SELECT p.id, r.id FROM item_places AS p JOIN responses AS r ON r.user_id = p.user_id AND r.id = p.response_id
WHERE p.user_id = ? AND p.id IN (...) ORDER BY r.rowid DESC

-- select_bytes_of_items --
-- What holds the items of a response.
SELECT input, body FROM responses WHERE user_id = ? AND id = ?

-- select_conversation_items_by_id --
-- Items of conversations by their ids; the three dots stand for one `?` for each id.
SELECT id, body FROM conversation_items WHERE user_id = ? AND id IN (...) ORDER BY position

-- select_last_call --
-- The position of the last question that was asked at a commit.
SELECT MAX(position) FROM calls WHERE user_id = ? AND commit_id = ?

-- insert_call --
-- Store a question.
INSERT INTO calls (user_id, response_id, position, commit_id, call_id, request_id) VALUES (?, ?, ?, ?, ?, ?)

-- select_calls --
-- The questions that were asked at a commit, in order.
SELECT call_id, request_id FROM calls WHERE user_id = ? AND commit_id = ? ORDER BY position

-- select_calls_of_response --
-- The questions that a response has asked, in order.
SELECT call_id, request_id FROM calls WHERE user_id = ? AND response_id = ? ORDER BY position

-- find_call --
-- The commit at which a question was asked.
SELECT commit_id FROM calls WHERE user_id = ? AND call_id = ?

-- delete_calls --
-- Forget the questions that were asked at a commit.
DELETE FROM calls WHERE user_id = ? AND commit_id = ?

-- put_key --
-- Let a key stand for a response, in place of what it stood for before.
INSERT INTO idempotency_keys (user_id, name, fingerprint, response_id, created_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (user_id, name) DO UPDATE SET
    fingerprint = excluded.fingerprint, response_id = excluded.response_id, created_at = excluded.created_at

-- find_key --
-- What a key stands for since a time: a turn in flight, or a response that is still there.
SELECT key_fingerprint, id FROM turns WHERE user_id = ? AND key_name = ? AND created_at >= ?
UNION ALL
SELECT k.fingerprint, k.response_id
FROM idempotency_keys AS k JOIN responses AS r ON r.user_id = k.user_id AND r.id = k.response_id
WHERE k.user_id = ? AND k.name = ? AND k.created_at >= ?

-- select_old_keys --
-- The oldest idempotency keys from before a time.
SELECT user_id, name FROM idempotency_keys WHERE created_at < ? ORDER BY created_at LIMIT ?

-- delete_key --
-- Forget an idempotency key.
DELETE FROM idempotency_keys WHERE user_id = ? AND name = ?

-- insert_turn --
-- Store a turn that waits to be begun, unless its id, its conversation or its key has another one in flight.
INSERT INTO turns
    (user_id, id, start_commit, commit_id, created_at, conversation, key_name, key_fingerprint, status, attempt,
     last_sequence)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING

-- insert_turn_request --
-- Store what a turn is begun from.
INSERT INTO turn_requests (user_id, response_id, body) VALUES (?, ?, ?)

-- find_turn --
-- Whether a turn is in flight, and until when its lease is or was.
SELECT lease_until FROM turns WHERE user_id = ? AND id = ?

-- find_turn_in_conversation --
-- The turn in flight in a conversation.
SELECT id FROM turns WHERE user_id = ? AND conversation = ?

-- find_turn_with_key --
-- The turn in flight under a key.
SELECT id FROM turns WHERE user_id = ? AND key_name = ?

-- select_turn --
-- Everything of one turn.
SELECT t.user_id, t.id, t.start_commit, t.created_at, t.conversation, t.key_name, t.key_fingerprint, r.body, t.status,
       t.commit_id, t.attempt, t.last_sequence
FROM turns AS t LEFT JOIN turn_requests AS r ON r.user_id = t.user_id AND r.response_id = t.id
WHERE t.user_id = ? AND t.id = ?

-- select_lapsed_turns --
-- The turns of every user that have no owner, or one whose lease has lapsed.
SELECT t.user_id, t.id, t.start_commit, t.created_at, t.conversation, t.key_name, t.key_fingerprint, r.body, t.status,
       t.commit_id, t.attempt, t.last_sequence
FROM turns AS t LEFT JOIN turn_requests AS r ON r.user_id = t.user_id AND r.response_id = t.id
WHERE t.owner IS NULL OR t.lease_until <= ? ORDER BY t.created_at, t.id

-- take_turn --
-- Give a turn a new owner, if it has none, or one whose lease has lapsed, or in any case.
UPDATE turns SET owner = ?, lease_until = ?, status = 'in_progress'
WHERE user_id = ? AND id = ? AND (owner IS NULL OR lease_until <= ? OR ?)

-- renew_turn --
-- Move the lease of an owner's turn.
UPDATE turns SET lease_until = ? WHERE user_id = ? AND id = ? AND owner = ?

-- give_back_turn --
-- End the lease of an owner's turn, and do not count the attempt that has begun, if one has.
UPDATE turns SET owner = NULL, lease_until = NULL, attempt = attempt - ? WHERE user_id = ? AND id = ? AND owner = ?

-- let_lease_lapse --
-- Take a turn from its owner.
UPDATE turns SET owner = NULL, lease_until = NULL WHERE user_id = ? AND id = ?

-- let_leases_lapse --
-- Take every turn from its owner.
UPDATE turns SET owner = NULL, lease_until = NULL WHERE owner IS NOT NULL

-- claim_turn --
-- Take the next places in a turn's event log, if the guard holds; a writer that holds the row keeps others waiting.
UPDATE turns SET last_sequence = last_sequence + ? WHERE user_id = ? AND id = ? AND owner = ? AND last_sequence = ?

-- begin_turn --
-- Count an attempt at a turn.
UPDATE turns SET attempt = attempt + 1 WHERE user_id = ? AND id = ?

-- move_turn --
-- Let a turn stand at a commit, from where it is attempted for the first time.
UPDATE turns SET commit_id = ?, attempt = 1 WHERE user_id = ? AND id = ?

-- delete_turn --
-- Forget a turn in flight.
DELETE FROM turns WHERE user_id = ? AND id = ?

-- delete_turn_request --
-- Forget what a turn was begun from.
DELETE FROM turn_requests WHERE user_id = ? AND response_id = ?

-- put_turn_note --
-- Note what is finished of a turn's superstep, in place of an earlier note of that name.
INSERT INTO turn_notes (user_id, response_id, name, body) VALUES (?, ?, ?, ?)
ON CONFLICT (user_id, response_id, name) DO UPDATE SET body = excluded.body

-- select_turn_notes --
-- What is noted of the superstep that a turn is in.
SELECT name, body FROM turn_notes WHERE user_id = ? AND response_id = ?

-- delete_turn_notes --
-- Forget what was noted of a turn.
DELETE FROM turn_notes WHERE user_id = ? AND response_id = ?

-- insert_events --
-- Store events that were written together.
INSERT INTO events (user_id, response_id, first_sequence, last_sequence, bodies) VALUES (?, ?, ?, ?, ?)

-- select_events --
-- The events behind a sequence number, and perhaps some before it: those that were written together stand together.
SELECT first_sequence, bodies FROM events WHERE user_id = ? AND response_id = ? AND last_sequence > ?
ORDER BY last_sequence LIMIT ?

-- delete_events --
-- Forget the events of a response.
DELETE FROM events WHERE user_id = ? AND response_id = ?

-- select_old_logs --
-- The responses that ended first of those before a time and whose events are kept.
SELECT user_id, id FROM responses WHERE log_ended_at < ? ORDER BY log_ended_at LIMIT ?

-- note_log_gone --
-- Note that the events of a response are not kept any more.
UPDATE responses SET log_ended_at = NULL WHERE user_id = ? AND id = ?

-- insert_conversation --
-- Store a conversation; changes no row if the user has one of that id.
INSERT INTO conversations (user_id, id, created_at, metadata, head, last_position) VALUES (?, ?, ?, ?, ?, 0)
ON CONFLICT DO NOTHING

-- select_conversation --
-- A conversation.
SELECT id, created_at, metadata, head FROM conversations WHERE user_id = ? AND id = ?

-- update_conversation --
-- Replace the metadata of a conversation.
UPDATE conversations SET metadata = ? WHERE user_id = ? AND id = ?

-- extend_conversation --
-- Take the next places in a conversation; a writer that holds the row keeps others waiting.
UPDATE conversations SET last_position = last_position + ? WHERE user_id = ? AND id = ?

-- select_last_position --
-- The last place of a conversation that was ever taken.
SELECT last_position FROM conversations WHERE user_id = ? AND id = ?

-- move_conversation --
-- Move the head of a conversation, if it is the one named ('' for none).
UPDATE conversations SET head = ? WHERE user_id = ? AND id = ? AND COALESCE(head, '') = ?

-- delete_conversation --
-- Remove a conversation.
DELETE FROM conversations WHERE user_id = ? AND id = ?

-- insert_conversation_item --
-- Store an item of a conversation; changes no row if the conversation has one of that id.
INSERT INTO conversation_items (user_id, conversation, position, id, waiting, body) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING

-- select_conversation_item --
-- An item of a conversation, and its place.
SELECT id, body, position FROM conversation_items WHERE user_id = ? AND id = ? AND conversation = ?

-- select_items_after --
-- The items of a conversation behind a place, oldest first.
SELECT id, body FROM conversation_items WHERE user_id = ? AND conversation = ? AND position > ?
ORDER BY position LIMIT ?

-- select_items_before --
-- The items of a conversation before a place, newest first.
SELECT id, body FROM conversation_items WHERE user_id = ? AND conversation = ? AND position < ?
ORDER BY position DESC LIMIT ?

-- select_waiting_items --
-- The items that the next turn of a conversation takes in, with their places.
SELECT id, body, position FROM conversation_items WHERE user_id = ? AND conversation = ? AND waiting
ORDER BY position

-- take_waiting_items --
-- Let the items up to a place wait no longer.
UPDATE conversation_items SET waiting = ? WHERE user_id = ? AND conversation = ? AND position <= ? AND waiting

-- delete_conversation_item --
-- Remove an item of a conversation.
DELETE FROM conversation_items WHERE user_id = ? AND id = ? AND conversation = ?

-- delete_conversation_items --
-- Remove all items of a conversation.
DELETE FROM conversation_items WHERE user_id = ? AND conversation = ?

-- put_compaction --
-- Store what a handle stands for.
INSERT INTO compactions (user_id, handle, created_at, items, commit_id, heard) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id, handle) DO UPDATE SET
    created_at = excluded.created_at, items = excluded.items, commit_id = excluded.commit_id, heard = excluded.heard

-- select_compaction --
-- What a handle stands for.
SELECT handle, created_at, items, commit_id, heard FROM compactions WHERE user_id = ? AND handle = ?

-- insert_commit --
-- Store a commit unless it is stored already.
INSERT INTO commits
    (user_id, id, parent, workflow, session_id, kind, seq, step, created_at, signature, delta, complete, distance)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING

-- put_heard --
-- Note what the turn that has made a commit has added to what its state has heard.
UPDATE commits SET heard = ? WHERE user_id = ? AND id = ?

-- keep_heard --
-- Leave to the commit that a response has made what its turn has heard, before the response goes.
UPDATE commits SET heard = ? WHERE user_id = ? AND id = ? AND session_id = ? AND heard IS NULL

-- select_heard --
-- What the turns on the way to a commit have added to what its state has heard, newest first.
WITH RECURSIVE line (user_id, id, parent, session_id, heard) AS (
    SELECT user_id, id, parent, session_id, heard FROM commits WHERE user_id IN (?, '*') AND id = ?
    UNION ALL
    SELECT c.user_id, c.id, c.parent, c.session_id, c.heard
    FROM line JOIN commits AS c ON c.user_id IN (?, '*') AND c.id = line.parent
)
SELECT line.session_id, COALESCE(line.heard, r.items)
FROM line LEFT JOIN responses AS r
    ON r.user_id = line.user_id AND r.id = line.session_id AND r.commit_id = line.id
WHERE COALESCE(line.heard, r.items) IS NOT NULL

-- insert_blob --
-- Store a blob unless it is stored already.
INSERT INTO blobs (user_id, hash, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING

-- find_commit --
-- The kind of a commit that the user may read.
SELECT kind FROM commits WHERE user_id IN (?, '*') AND id = ?

-- find_continued --
-- What is continued from a commit; a turn's session has the id of its response.
SELECT 'the stored response', r.id
FROM commits AS c JOIN responses AS r ON r.user_id = c.user_id AND r.id = c.session_id
WHERE c.user_id = ? AND c.id = ? AND r.commit_id = c.id
UNION ALL
SELECT 'the stored response', id FROM responses WHERE user_id = ? AND commit_id = ? AND commit_id = start_commit
UNION ALL
SELECT 'the stored response', r.id
FROM calls AS k JOIN responses AS r ON r.user_id = k.user_id AND r.id = k.response_id
WHERE k.user_id = ? AND k.commit_id = ?
UNION ALL
SELECT 'the conversation', id FROM conversations WHERE user_id = ? AND head = ?
UNION ALL
SELECT 'the running response', id FROM turns WHERE user_id = ? AND (commit_id = ? OR start_commit = ?)
UNION ALL
SELECT 'a compaction of response items', handle FROM compactions WHERE user_id = ? AND commit_id = ?
LIMIT 1

-- find_root --
-- Whether a root commit is stored.
SELECT 1 FROM commits WHERE user_id = '*' AND id = ?

-- select_chain --
-- A commit and its ancestors back to a complete one, newest first.
WITH RECURSIVE chain (depth, id, parent, workflow, session_id, kind, seq, step, created_at, signature,
                      delta, complete, distance) AS (
    SELECT 0, id, parent, workflow, session_id, kind, seq, step, created_at, signature, delta, complete, distance
    FROM commits WHERE user_id IN (?, '*') AND id = ?
    UNION ALL
    SELECT chain.depth + 1, c.id, c.parent, c.workflow, c.session_id, c.kind, c.seq, c.step, c.created_at,
           c.signature, c.delta, c.complete, c.distance
    FROM chain JOIN commits AS c ON c.user_id IN (?, '*') AND c.id = chain.parent
    WHERE NOT chain.complete
)
SELECT id, parent, workflow, session_id, kind, seq, step, created_at, signature, delta, complete, distance
FROM chain ORDER BY depth, kind <> 'root'

-- select_blobs --
-- The bodies of blobs of one partition; the three dots stand for one `?` for each hash.
SELECT hash, body FROM blobs WHERE user_id = ? AND hash IN (...)

-- select_commits --
-- The commits of a workflow in the order in which they were made, the workflow's roots among them.
SELECT id, parent, workflow, session_id, kind, seq, step, created_at, signature, delta, complete, distance
FROM commits WHERE user_id IN (?, '*') AND workflow = ? ORDER BY created_at, seq

-- select_session_commits --
-- The commits of one session in the order in which they were made.
SELECT id, parent, workflow, session_id, kind, seq, step, created_at, signature, delta, complete, distance
FROM commits WHERE user_id IN (?, '*') AND workflow = ? AND session_id = ? ORDER BY created_at, seq

-- select_head --
-- The newest commit of a session.
SELECT commit_id FROM heads WHERE user_id = ? AND workflow = ? AND session_id = ?

-- put_head --
-- Point a session at a commit.
INSERT INTO heads (user_id, workflow, session_id, commit_id) VALUES (?, ?, ?, ?)
ON CONFLICT (user_id, workflow, session_id) DO UPDATE SET commit_id = excluded.commit_id

-- find_head_at --
-- A session whose head is this commit.
SELECT workflow, session_id FROM heads WHERE user_id = ? AND commit_id = ?

-- select_incomplete_children --
-- The commits that need this one to be read.
SELECT id, distance FROM commits WHERE user_id = ? AND parent = ? AND NOT complete

-- shorten_distances --
-- Bring a commit that becomes complete, and all that are read through it, nearer to a complete one.
WITH RECURSIVE heirs (id) AS (
    VALUES (?)
    UNION ALL
    SELECT c.id FROM heirs JOIN commits AS c ON c.user_id = ? AND c.parent = heirs.id AND NOT c.complete
)
UPDATE commits SET distance = distance - ? WHERE user_id = ? AND id IN (SELECT id FROM heirs)

-- complete_commit --
-- Let a commit hold all of its cells.
UPDATE commits SET complete = 1, delta = ? WHERE user_id = ? AND id = ?

-- delete_commit --
-- Remove a commit of the user.
DELETE FROM commits WHERE user_id = ? AND id = ?

-- select_deltas --
-- What every commit of one partition changes.
SELECT delta FROM commits WHERE user_id = ?

-- select_blob_heads --
-- The hash of every blob of one partition, with the body if that names further blobs and else its first two bytes.
SELECT hash, CASE WHEN substr(body, 1, 2) = x'0000' THEN x'0000' ELSE body END FROM blobs WHERE user_id = ?

-- delete_blob --
-- Remove a blob of one partition.
DELETE FROM blobs WHERE user_id = ? AND hash = ?

-- put_note --
-- Note what is finished of a superstep, in place of an earlier note of that name.
INSERT INTO notes (user_id, workflow, session_id, name, body) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (user_id, workflow, session_id, name) DO UPDATE SET body = excluded.body

-- select_notes --
-- What is noted of the superstep that a session is in.
SELECT name, body FROM notes WHERE user_id = ? AND workflow = ? AND session_id = ?

-- delete_notes --
-- Forget what was noted of a session.
DELETE FROM notes WHERE user_id = ? AND workflow = ? AND session_id = ?

-- select_heads --
-- The head of every session of every user.
SELECT user_id, workflow, session_id, commit_id FROM heads ORDER BY user_id, workflow, session_id

-- select_recent_responses --
-- The commit of every user's responses since a time, with the commit's workflow, empty if the commit is gone.
SELECT r.user_id, COALESCE(c.workflow, ''), r.id, r.commit_id
FROM responses AS r LEFT JOIN commits AS c ON c.user_id IN (r.user_id, '*') AND c.id = r.commit_id
WHERE r.created_at >= ? ORDER BY r.created_at, r.id

-- select_conversation_heads --
-- The commit of every conversation of every user that has had a turn, with the commit's workflow.
SELECT v.user_id, COALESCE(c.workflow, ''), v.id, v.head
FROM conversations AS v LEFT JOIN commits AS c ON c.user_id IN (v.user_id, '*') AND c.id = v.head
WHERE v.head IS NOT NULL ORDER BY v.user_id, v.id

-- select_old_responses --
-- The oldest responses from before a time, without those that have asked something to which no turn has an answer.
SELECT r.user_id, r.id, LENGTH(r.input) + LENGTH(r.body) + LENGTH(r.delta_lengths)
FROM responses AS r
WHERE r.created_at < ? AND NOT EXISTS (
    SELECT 1 FROM calls AS k
    WHERE k.user_id = r.user_id AND k.response_id = r.id AND NOT EXISTS (
        SELECT 1 FROM commits AS c WHERE c.parent = r.commit_id AND c.user_id = r.user_id
    )
)
ORDER BY r.created_at LIMIT ?

-- sum_events --
-- The bytes of a response's events.
SELECT COALESCE(SUM(LENGTH(bodies)), 0) FROM events WHERE user_id = ? AND response_id = ?

-- select_old_compactions --
-- The oldest compactions from before a time.
SELECT rowid, LENGTH(items) FROM compactions WHERE created_at < ? ORDER BY created_at LIMIT ?

-- delete_compaction --
-- Remove a compaction.
DELETE FROM compactions WHERE rowid = ?

-- last_commit --
-- The place behind the newest commit.
SELECT COALESCE(MAX(rowid), 0) + 1 FROM commits

-- select_unneeded_commits --
-- The commits between two places that nothing continues and that are no part of a session, newest first.
SELECT c.user_id, c.id FROM commits AS c
WHERE c.rowid < ? AND c.rowid >= ? AND c.kind <> 'root'
    AND NOT EXISTS (
        SELECT 1 FROM heads AS h
        WHERE h.user_id = c.user_id AND h.workflow = c.workflow AND h.session_id = c.session_id
    )
    AND NOT EXISTS (SELECT 1 FROM heads AS h WHERE h.commit_id = c.id AND h.user_id = c.user_id)
    AND NOT EXISTS (SELECT 1 FROM responses AS r WHERE r.commit_id = c.id AND r.user_id = c.user_id)
    AND NOT EXISTS (SELECT 1 FROM conversations AS v WHERE v.head = c.id AND v.user_id = c.user_id)
    AND NOT EXISTS (SELECT 1 FROM compactions AS p WHERE p.commit_id = c.id AND p.user_id = c.user_id)
    AND NOT EXISTS (SELECT 1 FROM turns AS t WHERE t.user_id = c.user_id AND t.id = c.session_id)
    AND NOT EXISTS (SELECT 1 FROM turns AS t WHERE t.start_commit = c.id AND t.user_id = c.user_id)
ORDER BY c.rowid DESC

-- select_unneeded_roots --
-- The roots that nothing begins at, of workflows without sessions; a root in use is read through by its children.
SELECT c.id FROM commits AS c
WHERE c.user_id = '*'
    AND NOT EXISTS (SELECT 1 FROM heads WHERE workflow = c.workflow)
    AND NOT EXISTS (SELECT 1 FROM commits AS d WHERE d.parent = c.id AND NOT d.complete)
    AND NOT EXISTS (SELECT 1 FROM responses AS r WHERE r.commit_id = c.id)
    AND NOT EXISTS (SELECT 1 FROM conversations AS v WHERE v.head = c.id)
    AND NOT EXISTS (SELECT 1 FROM compactions AS p WHERE p.commit_id = c.id)
    AND NOT EXISTS (SELECT 1 FROM turns AS t WHERE t.start_commit = c.id OR t.commit_id = c.id)

-- find_place --
-- Where a commit stands among all, with its parent, what it changes, whether it holds all of its cells, what was heard.
SELECT rowid, parent, delta, complete, heard FROM commits WHERE user_id = ? AND id = ?

-- select_children --
-- The children of a commit, with what was heard on the way to each.
SELECT c.id, COALESCE(c.heard, r.items)
FROM commits AS c LEFT JOIN responses AS r
    ON r.user_id = c.user_id AND r.id = c.session_id AND r.commit_id = c.id
WHERE c.parent = ? AND c.user_id = ?

-- move_child --
-- Let a commit follow another one, with other things heard on the way to it.
UPDATE commits SET parent = ?, heard = ? WHERE user_id = ? AND id = ?

-- replace_delta --
-- Let a commit hold other cells.
UPDATE commits SET delta = ? WHERE user_id = ? AND id = ?

-- select_delta --
-- What a commit changes.
SELECT delta FROM commits WHERE user_id = ? AND id = ?

-- select_deltas_behind --
-- What the commits behind a place change, in the order in which they were stored.
SELECT rowid, user_id, id, delta FROM commits WHERE rowid > ? ORDER BY rowid LIMIT ?

-- find_commit_at --
-- Whether a commit stands at a place still.
SELECT 1 FROM commits WHERE rowid = ? AND id = ?

-- last_blob --
-- The place of the newest blob.
SELECT COALESCE(MAX(rowid), 0) FROM blobs

-- select_naming_blobs --
-- The blobs between two places that name further blobs.
SELECT hash, body FROM blobs WHERE rowid > ? AND rowid <= ? AND substr(body, 1, 2) <> x'0000'

-- select_blob_names --
-- The blobs between two places, with their sizes.
SELECT user_id, hash, LENGTH(body) FROM blobs WHERE rowid > ? AND rowid <= ?

-- select_blob_size --
-- The size of a blob.
SELECT LENGTH(body) FROM blobs WHERE user_id = ? AND hash = ?
