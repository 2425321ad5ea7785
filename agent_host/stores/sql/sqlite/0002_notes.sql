-- What is finished of the superstep that a session is in, and a way to the responses of the last days.

CREATE TABLE notes (
    user_id TEXT NOT NULL,
    workflow TEXT NOT NULL,
    session_id TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX notes_by_session ON notes (user_id, workflow, session_id, name);

CREATE INDEX responses_by_time ON responses (created_at);
