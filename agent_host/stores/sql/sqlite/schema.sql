-- The tables as they are after every migration; a test keeps the two equal. Nothing runs this file but tests.

CREATE TABLE commits (
    user_id TEXT NOT NULL,
    id TEXT NOT NULL,
    parent TEXT,
    workflow TEXT NOT NULL,
    session_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    seq INTEGER NOT NULL,
    step INTEGER NOT NULL,
    created_at REAL NOT NULL,
    signature TEXT NOT NULL,
    complete INTEGER NOT NULL,
    distance INTEGER NOT NULL,
    delta BLOB NOT NULL,
    heard BLOB
);
CREATE UNIQUE INDEX commits_by_id ON commits (user_id, id);
CREATE INDEX commits_by_parent ON commits (parent, user_id);

CREATE TABLE blobs (
    user_id TEXT NOT NULL,
    hash BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX blobs_by_hash ON blobs (user_id, hash);

CREATE TABLE responses (
    user_id TEXT NOT NULL,
    id TEXT NOT NULL,
    previous_response_id TEXT,
    start_commit TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    conversation TEXT,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    completed_at INTEGER,
    delta_lengths BLOB NOT NULL,
    input BLOB NOT NULL,
    body BLOB NOT NULL,
    background INTEGER NOT NULL DEFAULT 0,
    items BLOB,
    log_ended_at REAL
);
CREATE UNIQUE INDEX responses_by_id ON responses (user_id, id);
CREATE INDEX responses_by_time ON responses (created_at);
CREATE INDEX responses_by_commit ON responses (commit_id, user_id);
CREATE INDEX responses_by_log ON responses (log_ended_at) WHERE log_ended_at IS NOT NULL;

CREATE TABLE heads (
    user_id TEXT NOT NULL,
    workflow TEXT NOT NULL,
    session_id TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    PRIMARY KEY (user_id, workflow, session_id)
) WITHOUT ROWID;
CREATE INDEX heads_by_commit ON heads (commit_id, user_id);

CREATE TABLE notes (
    user_id TEXT NOT NULL,
    workflow TEXT NOT NULL,
    session_id TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX notes_by_session ON notes (user_id, workflow, session_id, name);

CREATE TABLE item_places (
    user_id TEXT NOT NULL,
    id TEXT NOT NULL,
    response_id TEXT NOT NULL,
    PRIMARY KEY (user_id, id, response_id)
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
CREATE INDEX turns_by_start ON turns (start_commit, user_id);
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
CREATE INDEX conversations_by_head ON conversations (head, user_id) WHERE head IS NOT NULL;

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
CREATE INDEX compactions_by_commit ON compactions (commit_id, user_id) WHERE commit_id IS NOT NULL;
CREATE INDEX compactions_by_time ON compactions (created_at);
