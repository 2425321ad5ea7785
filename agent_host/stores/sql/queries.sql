-- Every statement of the SQL stores. `*` is the partition of root commits, which every user may read.

-- insert_response --
-- Store a response; changes no row if the user has one of that id.
INSERT INTO responses
    (user_id, id, previous_response_id, start_commit, commit_id, conversation, status,
     created_at, completed_at, delta_lengths, input, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING

-- select_response --
-- Everything of one response.
SELECT id, previous_response_id, start_commit, commit_id, conversation, status,
       created_at, completed_at, delta_lengths, input, body
FROM responses WHERE user_id = ? AND id = ?

-- select_resume_point --
-- What a turn needs to continue a response.
SELECT id, commit_id, status FROM responses WHERE user_id = ? AND id = ?

-- insert_commit --
-- Store a commit unless it is stored already.
INSERT INTO commits
    (user_id, id, parent, workflow, session_id, kind, seq, step, created_at, signature, delta, complete, distance)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING

-- insert_blob --
-- Store a blob unless it is stored already.
INSERT INTO blobs (user_id, hash, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING

-- find_commit --
-- The kind of a commit that the user may read.
SELECT kind FROM commits WHERE user_id IN (?, '*') AND id = ?

-- find_response_of_commit --
-- The stored response whose turn ended with this commit; a turn's session has the id of its response.
SELECT r.id FROM commits AS c JOIN responses AS r ON r.user_id = c.user_id AND r.id = c.session_id
WHERE c.user_id = ? AND c.id = ? AND r.commit_id = c.id

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
FROM chain ORDER BY depth

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
