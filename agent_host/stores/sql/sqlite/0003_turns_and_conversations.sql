-- Turns in flight with their event log, the questions and items of responses, conversations, and what is kept a while.
-- A turn's row is written with every batch of its events, so its request, which may be long, lies apart. An event row
-- holds the events that were written together. Only what is rare is indexed by commit: a response that ends at the
-- commit it began at has failed or was cancelled.

ALTER TABLE commits ADD COLUMN heard BLOB;
ALTER TABLE responses ADD COLUMN background INTEGER NOT NULL DEFAULT 0;
ALTER TABLE responses ADD COLUMN items BLOB;
ALTER TABLE responses ADD COLUMN log_ended_at REAL;
CREATE INDEX responses_by_start ON responses (user_id, commit_id) WHERE commit_id = start_commit;
CREATE INDEX responses_by_log ON responses (log_ended_at) WHERE log_ended_at IS NOT NULL;

CREATE TABLE item_places (
    user_id TEXT NOT NULL,
    id TEXT NOT NULL,
    response_id TEXT NOT NULL,
    PRIMARY KEY (user_id, id)
) WITHOUT ROWID;

CREATE TABLE calls (
    user_id TEXT NOT NULL,
    response_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    commit_id TEXT NOT NULL,
    call_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (user_id, response_id, position)
) WITHOUT ROWID;
CREATE INDEX calls_by_commit ON calls (user_id, commit_id);
CREATE INDEX calls_by_id ON calls (user_id, call_id);

CREATE TABLE idempotency_keys (
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    response_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (user_id, name)
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (created_at);

CREATE TABLE turns (
    user_id TEXT NOT NULL,
    id TEXT NOT NULL,
    start_commit TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    conversation TEXT,
    key_name TEXT,
    key_fingerprint BLOB,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    owner TEXT,
    lease_until REAL,
    PRIMARY KEY (user_id, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX turns_by_conversation ON turns (user_id, conversation) WHERE conversation IS NOT NULL;
CREATE UNIQUE INDEX turns_by_key ON turns (user_id, key_name) WHERE key_name IS NOT NULL;

CREATE TABLE turn_requests (
    user_id TEXT NOT NULL,
    response_id TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX turn_requests_by_id ON turn_requests (user_id, response_id);

CREATE TABLE turn_notes (
    user_id TEXT NOT NULL,
    response_id TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX turn_notes_by_name ON turn_notes (user_id, response_id, name);

CREATE TABLE events (
    user_id TEXT NOT NULL,
    response_id TEXT NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    bodies BLOB NOT NULL
);
CREATE UNIQUE INDEX events_by_sequence ON events (user_id, response_id, last_sequence);

CREATE TABLE conversations (
    user_id TEXT NOT NULL,
    id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    metadata BLOB NOT NULL,
    head TEXT,
    last_position INTEGER NOT NULL
);
CREATE UNIQUE INDEX conversations_by_id ON conversations (user_id, id);
CREATE INDEX conversations_by_head ON conversations (user_id, head) WHERE head IS NOT NULL;

CREATE TABLE conversation_items (
    user_id TEXT NOT NULL,
    conversation TEXT NOT NULL,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    waiting INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX conversation_items_by_position ON conversation_items (user_id, conversation, position);
CREATE UNIQUE INDEX conversation_items_by_id ON conversation_items (user_id, id, conversation);
CREATE INDEX conversation_items_waiting ON conversation_items (user_id, conversation, position) WHERE waiting;

CREATE TABLE compactions (
    user_id TEXT NOT NULL,
    handle TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    items BLOB NOT NULL,
    commit_id TEXT,
    heard BLOB NOT NULL
);
CREATE UNIQUE INDEX compactions_by_handle ON compactions (user_id, handle);
CREATE INDEX compactions_by_commit ON compactions (user_id, commit_id) WHERE commit_id IS NOT NULL;

-- What is stored already: the ids of the items of each response, and where they lie.
UPDATE responses SET items = (
    SELECT CAST(json_group_array(id) AS BLOB) FROM (
        SELECT json_extract(value, '$.id') AS id FROM json_each(CAST(input AS TEXT))
        UNION ALL
        SELECT json_extract(value, '$.id')
        FROM json_each(COALESCE(json_extract(CAST(body AS TEXT), '$.output'), '[]'))
    ) WHERE id IS NOT NULL
) WHERE json_valid(CAST(input AS TEXT)) AND json_valid(CAST(body AS TEXT));
INSERT OR IGNORE INTO item_places (user_id, id, response_id)
SELECT r.user_id, i.value, r.id FROM responses AS r, json_each(CAST(r.items AS TEXT)) AS i
WHERE r.items IS NOT NULL ORDER BY r.created_at, r.id;
