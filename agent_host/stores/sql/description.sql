-- What a store tells of itself. These statements read whole tables; nothing that serves a user runs them.

-- counts --
-- How many there are of everything, and when the oldest response was created.
SELECT (SELECT COUNT(*) FROM conversations), (SELECT COUNT(*) FROM responses), (SELECT COUNT(*) FROM commits),
       (SELECT COUNT(*) FROM blobs), (SELECT COUNT(*) FROM turns), (SELECT MIN(created_at) FROM responses)

-- users --
-- How many users have anything.
SELECT COUNT(*) FROM (
    SELECT user_id FROM responses UNION SELECT user_id FROM conversations UNION SELECT user_id FROM heads
    UNION SELECT user_id FROM turns
)

-- pending --
-- How many responses have asked something to which no stored turn has an answer.
SELECT COUNT(*) FROM (
    SELECT DISTINCT k.user_id, k.response_id
    FROM calls AS k JOIN responses AS r ON r.user_id = k.user_id AND r.id = k.response_id
    WHERE NOT EXISTS (SELECT 1 FROM commits AS c WHERE c.parent = k.commit_id AND c.user_id = k.user_id)
)

-- sizes --
-- The bytes of everything, by its kind.
SELECT 'responses', COALESCE(SUM(LENGTH(input) + LENGTH(body) + LENGTH(delta_lengths)), 0) FROM responses
UNION ALL SELECT 'events', COALESCE(SUM(LENGTH(bodies)), 0) FROM events
UNION ALL SELECT 'conversation items', COALESCE(SUM(LENGTH(body)), 0) FROM conversation_items
UNION ALL SELECT 'commits', COALESCE(SUM(LENGTH(delta)), 0) FROM commits
UNION ALL SELECT 'blobs', COALESCE(SUM(LENGTH(body)), 0) FROM blobs
UNION ALL SELECT 'compactions', COALESCE(SUM(LENGTH(items)), 0) FROM compactions
UNION ALL SELECT 'turns in flight', COALESCE(SUM(LENGTH(body)), 0) FROM turn_requests

-- largest --
-- The five largest conversations with their items and the bytes of these.
SELECT user_id, conversation, COUNT(*), SUM(LENGTH(body)) FROM conversation_items
GROUP BY user_id, conversation ORDER BY 4 DESC, 2 LIMIT 5

-- room --
-- The bytes of the file, and those in it that are free.
SELECT p.page_count * s.page_size, f.freelist_count * s.page_size
FROM pragma_page_count AS p, pragma_page_size AS s, pragma_freelist_count AS f
