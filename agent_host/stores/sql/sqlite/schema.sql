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
    delta BLOB NOT NULL
);
CREATE UNIQUE INDEX commits_by_id ON commits (user_id, id);
CREATE INDEX commits_by_parent ON commits (user_id, parent);

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
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX responses_by_id ON responses (user_id, id);
CREATE INDEX responses_by_time ON responses (created_at);

CREATE TABLE heads (
    user_id TEXT NOT NULL,
    workflow TEXT NOT NULL,
    session_id TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    PRIMARY KEY (user_id, workflow, session_id)
) WITHOUT ROWID;

CREATE TABLE notes (
    user_id TEXT NOT NULL,
    workflow TEXT NOT NULL,
    session_id TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX notes_by_session ON notes (user_id, workflow, session_id, name);
